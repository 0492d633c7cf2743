//! What is kept when a test fails: everything one wants to see first.
//!
//! Written to `$PEERNET_E2E_LOGS/TEST/`, by default `target/e2e-logs/TEST/`: `objects.txt` (tables of all objects, nodes
//! and events), `resources.yaml` (the PeerNetworks and StatefulSets in full), `operator.log`, and each pod's log, with
//! that of its previous container if it had one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::kubectl;

/// Where the chart puts the operator.
pub const OPERATOR_NAMESPACE: &str = "peernet-system";

/// Writes all there is to know about a namespace. What cannot be had is skipped: the failure itself matters more.
///
/// # Errors
/// The directory cannot be written.
pub async fn namespace(test: &str, namespace: &str, failure: &str) -> Result<PathBuf> {
    let directory = directory().join(test);
    if directory.exists() {
        fs::remove_dir_all(&directory)?; // of an earlier run
    }
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("failure.txt"), failure)?;
    let tables = [
        "get pn,sts,pods,pvc,svc,endpointslices,pdb -o wide",
        "get nodes -L topology.kubernetes.io/zone",
        "describe pn",
        "describe pods",
        "get events -o wide --sort-by=.lastTimestamp",
    ];
    let mut objects = String::new();
    for table in tables {
        objects += &format!(
            "$ kubectl -n {namespace} {table}\n{}\n",
            print(namespace, table).await
        );
    }
    fs::write(directory.join("objects.txt"), objects)?;
    let yaml = print(namespace, "get pn,sts -o yaml").await;
    fs::write(directory.join("resources.yaml"), yaml)?;
    let selector =
        "logs -l app.kubernetes.io/name=peernet-operator --prefix --timestamps --tail=-1";
    let log = print(OPERATOR_NAMESPACE, selector).await;
    fs::write(directory.join("operator.log"), log)?;
    for pod in print(namespace, "get pods -o name")
        .await
        .lines()
        .filter(|l| l.starts_with("pod/"))
    {
        logs(&directory, namespace, pod).await?;
    }
    Ok(directory.canonicalize()?)
}

async fn logs(directory: &Path, namespace: &str, pod: &str) -> Result<()> {
    let name = pod.trim_start_matches("pod/");
    let log = print(
        namespace,
        &format!("logs {pod} --all-containers --timestamps"),
    )
    .await;
    fs::write(directory.join(format!("{name}.log")), log)?;
    let previous = format!("logs {pod} --all-containers --timestamps --previous");
    if let Ok(log) = kubectl::run(namespace, &previous.split(' ').collect::<Vec<_>>()).await {
        fs::write(directory.join(format!("{name}.previous.log")), log)?;
    }
    Ok(())
}

async fn print(namespace: &str, command: &str) -> String {
    let args: Vec<_> = command.split(' ').collect();
    match kubectl::attempt(namespace, &args, "").await {
        Ok(printed) => printed.out + &printed.err,
        Err(error) => format!("{error:#}\n"),
    }
}

fn directory() -> PathBuf {
    match env::var_os("PEERNET_E2E_LOGS") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e-logs"),
    }
}
