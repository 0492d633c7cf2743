//! What lies on the peers' volumes, seen from outside: `dev/cluster` keeps them in folders of this machine.
//!
//! A chunk is a file named by its hash, written once under a temporary name and renamed. A copy that was moved, fetched
//! again or written again is therefore another file: it has another volume, inode or time of birth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use thiserror::Error;

use crate::cluster::Scenario;
use crate::copies::Copies;

/// One copy of a chunk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Copy {
    /// The chunk's hash in hex.
    pub hash: String,
    /// The claim whose volume it lies on.
    pub claim: String,
    inode: u64,
    written: SystemTime,
}

/// Copies that are not what they were.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{} copies appeared and {} went, such as {example:?}", .appeared, .went)]
pub struct Moved {
    /// Copies that were not there before, or were other files.
    pub appeared: usize,
    /// Copies that are not there any more.
    pub went: usize,
    /// One of them.
    pub example: Copy,
}

/// All copies of these chunks on all volumes of the namespace.
///
/// # Errors
/// The API server does not answer, or a volume cannot be read.
pub async fn copies(scenario: &Scenario, of: &Copies) -> Result<BTreeSet<Copy>> {
    let folders = folders(scenario).await?;
    let mut copies = BTreeSet::new();
    for (claim, folder) in folders {
        let chunks = folder.join("chunks");
        let all = found(&claim, &chunks).with_context(|| format!("{}", chunks.display()))?;
        copies.extend(all.into_iter().filter(|c| of.chunks.contains_key(&c.hash)));
    }
    Ok(copies)
}

/// The folder of each bound claim's volume.
///
/// # Errors
/// The API server does not answer, or a volume is not a folder.
pub async fn folders(scenario: &Scenario) -> Result<BTreeMap<String, PathBuf>> {
    let claims = claims(scenario);
    let volumes: Api<PersistentVolume> = Api::all(scenario.client.clone());
    let mut folders = BTreeMap::new();
    for claim in claims.list(&ListParams::default()).await?.items {
        let name = claim.name_any();
        let Some(volume) = claim.spec.and_then(|s| s.volume_name) else {
            continue; // not bound yet
        };
        let spec = volumes.get(&volume).await?.spec.unwrap_or_default();
        let host = spec.host_path.map(|h| h.path);
        let path = host.or_else(|| spec.local.map(|l| l.path));
        let path = path.with_context(|| format!("{volume} is not a folder"))?;
        folders.insert(name, path.into());
    }
    Ok(folders)
}

/// Deletes the claim of this pod; its volume goes with it once the pod does.
///
/// # Errors
/// The API server does not do it.
pub async fn delete(scenario: &Scenario, pod: &str) -> Result<()> {
    let claim = format!("data-{pod}");
    claims(scenario)
        .delete(&claim, &DeleteParams::default())
        .await?;
    Ok(())
}

fn claims(scenario: &Scenario) -> Api<PersistentVolumeClaim> {
    Api::namespaced(scenario.client.clone(), &scenario.namespace)
}

/// Checks that exactly the same files hold the copies.
///
/// # Errors
/// See [`Moved`].
pub fn unmoved(before: &BTreeSet<Copy>, after: &BTreeSet<Copy>) -> Result<(), Moved> {
    let mut different = before.symmetric_difference(after);
    different.next().cloned().map_or(Ok(()), |example| {
        Err(Moved {
            appeared: after.difference(before).count(),
            went: before.difference(after).count(),
            example,
        })
    })
}

/// All chunks below a folder, however deep.
fn found(claim: &str, folder: &Path) -> io::Result<Vec<Copy>> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            copies.extend(found(claim, &entry.path())?);
        } else {
            copies.push(Copy {
                hash: entry.file_name().to_string_lossy().into_owned(),
                claim: claim.into(),
                inode: metadata.ino(),
                written: metadata.created()?,
            });
        }
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(hash: &str, claim: &str, inode: u64) -> Copy {
        Copy {
            hash: hash.into(),
            claim: claim.into(),
            inode,
            written: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_copy_that_moved_or_was_written_again_is_noticed() {
        let before = BTreeSet::from([copy("x", "data-0", 1), copy("x", "data-1", 2)]);
        assert_eq!(unmoved(&before, &before), Ok(()));
        let moved = BTreeSet::from([copy("x", "data-0", 1), copy("x", "data-2", 2)]);
        let error = unmoved(&before, &moved).unwrap_err();
        assert_eq!((error.appeared, error.went), (1, 1));
        let again = BTreeSet::from([copy("x", "data-0", 1), copy("x", "data-1", 9)]);
        assert!(unmoved(&before, &again).is_err());
        let more = BTreeSet::from_iter([before.clone(), moved].into_iter().flatten());
        assert_eq!(unmoved(&before, &more).unwrap_err().appeared, 1);
    }

    #[test]
    fn chunks_are_found_however_deep_they_lie() {
        let root = std::env::temp_dir().join(format!("peernet-volumes-{}", std::process::id()));
        fs::create_dir_all(root.join("ab/cd")).unwrap();
        fs::write(root.join("ab/cd/abcd"), "bytes").unwrap();
        let copies = found("data-0", &root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(copies.len(), 1);
        assert_eq!((&*copies[0].hash, &*copies[0].claim), ("abcd", "data-0"));
    }
}
