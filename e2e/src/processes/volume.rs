//! Harm to volumes, and small disks to fill.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A chunk's file as it lies on a volume: another inode or time of birth is another copy.
pub type Copies = BTreeMap<PathBuf, (u64, SystemTime)>;

/// All chunks on a volume.
///
/// # Errors
/// It cannot be read.
pub fn chunks(volume: &Path) -> Result<Copies> {
    let mut copies = Copies::new();
    for inner in folder(&volume.join("chunks"))? {
        for file in folder(&inner)? {
            match fs::metadata(&file) {
                Ok(m) => drop(copies.insert(file, (m.ino(), m.created()?))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(copies)
}

fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| path.display().to_string())?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Turns one bit of a file over, as a disk might.
///
/// # Errors
/// The file cannot be written.
pub fn flip_bit(path: &Path, place: u64, bit: u8) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    byte[0] ^= 1 << (bit % 8);
    Ok(file.write_all_at(&byte, place)?)
}

/// Copies a volume, as a backup or a snapshot does.
///
/// # Errors
/// It cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "cp -a {} failed", from.display());
    Ok(())
}

/// An ext4 file system of its own; unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, with a printed reason, where mounting is not allowed.
    ///
    /// # Errors
    /// There is no room for its image.
    pub fn mount(mebibytes: u64) -> Result<Option<Self>> {
        let disk = SmallDisk {
            folder: tempfile::Builder::new().prefix("peernet-disk-").tempdir()?,
        };
        let (image, mount) = (disk.folder.path().join("image"), disk.root());
        File::create(&image)?.set_len(mebibytes << 20)?;
        fs::create_dir(&mount)?;
        let inodes = ["-q", "-N", "8192"].map(Path::new);
        let options = ["-o", "loop,errors=remount-ro"].map(Path::new);
        let ready = run("mkfs.ext4", &[&inodes[..], &[&image]].concat())
            && run("mount", &[&options[..], &[&image, &mount]].concat());
        Ok(ready.then_some(disk))
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// Writes a file until so many bytes are free, or none when that is 0. Removing it makes room again.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fill(&self, leave: u64) -> Result<PathBuf> {
        let path = self.root().join("filler");
        let mut file = File::create(&path)?;
        let block = vec![0x55; 64 * 1024];
        loop {
            if self.free()? <= leave {
                break;
            }
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(path)
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(self.root())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Makes the kernel believe that it found the file system damaged, upon which it allows no more writes. What a
    /// `mount -o remount,ro` would refuse while a database is open.
    ///
    /// # Errors
    /// The kernel does not offer it.
    pub fn break_down(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = self.root().display().to_string();
        let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(&root));
        let device = line.and_then(|l| l.split(' ').next()?.rsplit('/').next());
        let device = device.context("it is not mounted")?;
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "1").with_context(|| trigger)
    }

    /// Mounts it again as it is, checked.
    ///
    /// # Errors
    /// It cannot be repaired or mounted.
    pub fn repair(&self) -> Result<()> {
        let (image, mount) = (self.folder.path().join("image"), self.root());
        ensure!(run("umount", &[&mount]), "umount");
        // 1: errors were corrected.
        let checked = Command::new("fsck.ext4").arg("-fy").arg(&image).output()?;
        ensure!(
            matches!(checked.status.code(), Some(0 | 1)),
            "fsck.ext4: {}",
            String::from_utf8_lossy(&checked.stdout)
        );
        let options = ["-o", "loop,errors=remount-ro"].map(Path::new);
        ensure!(
            run("mount", &[&options[..], &[&image, &mount]].concat()),
            "mount"
        );
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Not mounted when mounting was refused.
        let _ = Command::new("umount").arg("-l").arg(self.root()).output();
    }
}

fn run(program: &str, arguments: &[&Path]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: {program}: {}", said.trim());
            false
        }
        Err(error) => {
            eprintln!("skipped: {program}: {error}");
            false
        }
    }
}
