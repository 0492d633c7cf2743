//! How much memory the peers and the operator use, as the kernel of this machine says: `dev/cluster` runs its nodes here,
//! so every container's process is in `/proc`, and its cgroup names its pod.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use crate::cluster::{Scenario, operator_pods};
use crate::dump::OPERATOR_NAMESPACE;
use crate::network::Network;

/// Resident bytes by pod.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory(pub BTreeMap<String, u64>);

impl Memory {
    /// Of all peers of a network, and of the operator.
    ///
    /// # Errors
    /// The API server does not answer, or none of the pods runs on this machine.
    pub async fn of(scenario: &Scenario, network: &Network) -> Result<Self> {
        let operators: Api<Pod> = Api::namespaced(scenario.client.clone(), OPERATOR_NAMESPACE);
        let mut pods = operators.list(&operator_pods()).await?.items;
        pods.extend(network.pod_objects());
        let names = pods
            .iter()
            .map(|pod| (pod.uid().unwrap_or_default(), pod.name_any()));
        let memory = Memory(resident(Path::new("/proc"), &names.collect()));
        ensure!(!memory.0.is_empty(), "no pod's process is in /proc");
        Ok(memory)
    }

    /// The most that any one pod uses.
    pub fn largest(&self) -> u64 {
        self.0.values().copied().max().unwrap_or_default()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operators, peers): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(pod, _)| pod.contains("operator"));
        let mib = |of: &[(&String, &u64)]| {
            let all = of.iter().map(|(_, bytes)| (**bytes >> 20).to_string());
            all.collect::<Vec<_>>().join(", ")
        };
        write!(
            f,
            "peers {} MiB, operator {} MiB",
            mib(&peers),
            mib(&operators)
        )
    }
}

/// Resident bytes of all processes of these pods: names by UID. Processes come and go meanwhile; those that cannot be
/// read do not count.
fn resident(proc: &Path, names: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let mut resident = BTreeMap::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let cgroup = read("cgroup");
        let pod = names
            .iter()
            .find(|(uid, _)| cgroup.contains(&format!("pod{uid}")));
        if let (Some((_, name)), Some(bytes)) = (pod, resident_bytes(&read("status"))) {
            *resident.entry(name.clone()).or_default() += bytes;
        }
    }
    resident
}

/// `VmRSS` of `/proc/PID/status`, which is in units of 1,024 bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status_of_each_process_of_a_pod() {
        let proc = std::env::temp_dir().join(format!("peernet-memory-{}", std::process::id()));
        let process = |id: &str, cgroup: &str, kib: u64| {
            let folder = proc.join(id);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup"), cgroup).unwrap();
            let status = format!("Name:\tpeer\nVmHWM:\t  99 kB\nVmRSS:\t  {kib} kB\n");
            fs::write(folder.join("status"), status).unwrap();
        };
        process("1", "5:memory:/peernet-n1/kubepods/podu-1/c", 10);
        process("2", "5:memory:/peernet-n1/kubepods/podu-1/pause", 2);
        process("3", "5:memory:/peernet-n2/kubepods/podu-2/c", 7);
        process("4", "5:memory:/system", 70);
        let names = [("u-1", "demo-0"), ("u-2", "demo-1")].map(|(u, n)| (u.into(), n.into()));
        let found = resident(&proc, &names.into());
        fs::remove_dir_all(&proc).unwrap();
        let wanted = [("demo-0", 12 * 1024), ("demo-1", 7 * 1024)];
        assert_eq!(found, wanted.map(|(n, b)| (n.into(), b)).into());
    }
}
