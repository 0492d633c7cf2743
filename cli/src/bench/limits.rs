//! What the machine itself can do, measured beside the load: no network of peers on it can be faster.
//!
//! Each figure is of one thread unless it says otherwise, and on data that is random as files are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::{MIB, significant};
use super::usage::own_cpu;
use crate::output;

mod streams;
mod unary;

/// How long each is measured.
const TIME: Duration = Duration::from_millis(300);
/// Larger than caches, so that memory is measured.
const MEMORY: usize = 64 << 20;
/// Bytes hashed at a time: those of a chunk.
const CHUNK: usize = 1 << 20;
/// Bytes of a write to a socket.
const SEND: usize = 256 << 10;
/// Bytes of a large file.
const LARGE: usize = 64 << 20;
/// Large files written at the same time, and how many in all.
const WRITERS: usize = 3;

/// Results.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    /// Copying 64 MiB in memory, in MiB/s.
    memcpy_mib_per_second: f64,
    /// The same: CPU time, in seconds per GiB.
    memcpy_cpu_seconds_per_gib: f64,
    /// BLAKE3 of 1 MiB, in MiB/s.
    blake3_mib_per_second: f64,
    /// The same: CPU time, in seconds per GiB.
    blake3_cpu_seconds_per_gib: f64,
    /// One TCP stream over loopback, 256 KiB at a time, in MiB/s.
    loopback_mib_per_second: f64,
    /// The same: CPU time of both ends, in seconds per GiB.
    loopback_cpu_seconds_per_gib: f64,
    /// One stream of gRPC over loopback, parts of chunks of 256 KiB, in MiB/s.
    stream_mib_per_second: f64,
    /// The same: CPU time of both ends, in seconds per GiB.
    stream_cpu_seconds_per_gib: f64,
    /// Appending 4 KiB and fdatasync, in milliseconds: the median.
    sync4_kib_p50_ms: f64,
    /// Creating a file of 1 MiB and fdatasync, one after the other, in MiB/s.
    sync1_mib_mib_per_second: f64,
    /// Files of 64 MiB with fdatasync, three at a time, in MiB/s.
    disk_mib_per_second: f64,
    /// The same: CPU time, in seconds per GiB.
    disk_cpu_seconds_per_gib: f64,
    /// A remote procedure call that does nothing, one after the other, in milliseconds: the median.
    unary_p50_ms: f64,
    /// The same eight at once, a second.
    unary_per_second: f64,
    /// The same: CPU time of both ends, in microseconds per call.
    unary_cpu_micros: f64,
}

impl Limits {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mib = |value: f64| format!("{} MiB/s", significant(value));
        let cpu = |value: f64| format!("{} s/GiB", significant(value));
        let rows = [
            ("memcpy, 64 MiB", mib(self.memcpy_mib_per_second)),
            ("memcpy, CPU", cpu(self.memcpy_cpu_seconds_per_gib)),
            ("BLAKE3, 1 MiB", mib(self.blake3_mib_per_second)),
            ("BLAKE3, CPU", cpu(self.blake3_cpu_seconds_per_gib)),
            ("loopback TCP", mib(self.loopback_mib_per_second)),
            ("loopback TCP, CPU", cpu(self.loopback_cpu_seconds_per_gib)),
            ("gRPC stream", mib(self.stream_mib_per_second)),
            ("gRPC stream, CPU", cpu(self.stream_cpu_seconds_per_gib)),
            (
                "write 4 KiB and fdatasync, p50",
                format!("{} ms", significant(self.sync4_kib_p50_ms)),
            ),
            (
                "write 1 MiB and fdatasync",
                mib(self.sync1_mib_mib_per_second),
            ),
            (
                "write 64 MiB and fdatasync, 3 at once",
                mib(self.disk_mib_per_second),
            ),
            (
                "write 64 MiB and fdatasync, CPU",
                cpu(self.disk_cpu_seconds_per_gib),
            ),
            (
                "unary gRPC call, p50",
                format!("{} ms", significant(self.unary_p50_ms)),
            ),
            (
                "unary gRPC calls, 8 at once",
                format!("{} /s", significant(self.unary_per_second)),
            ),
            (
                "unary gRPC calls, 8 at once, CPU",
                format!("{} us", significant(self.unary_cpu_micros)),
            ),
        ];
        output::table(
            &["LIMIT", "VALUE>"],
            rows.map(|(name, value)| vec![name.to_owned(), value]),
        )
    }
}

/// Measures, with files in a new directory below `dir`. Takes a few seconds and blocks.
pub(crate) fn measure(dir: &Path) -> io::Result<Limits> {
    let dir = tempfile::tempdir_in(dir)?;
    let mut random = vec![0; MEMORY];
    fastrand::fill(&mut random);
    let (memcpy, memcpy_cpu) = memcpy(&random);
    let (blake3, blake3_cpu) = blake3(&random[..CHUNK]);
    let (loopback, loopback_cpu) = loopback(&random[..SEND])?;
    let (stream, stream_cpu) = streams::measure(TIME, &random)?;
    let (disk, disk_cpu) = large(dir.path(), &random[..LARGE])?;
    let unary = unary::measure(TIME)?;
    Ok(Limits {
        memcpy_mib_per_second: memcpy,
        memcpy_cpu_seconds_per_gib: memcpy_cpu,
        blake3_mib_per_second: blake3,
        blake3_cpu_seconds_per_gib: blake3_cpu,
        loopback_mib_per_second: loopback,
        loopback_cpu_seconds_per_gib: loopback_cpu,
        stream_mib_per_second: stream,
        stream_cpu_seconds_per_gib: stream_cpu,
        sync4_kib_p50_ms: appends(dir.path(), &random[..4096])?,
        sync1_mib_mib_per_second: files(dir.path(), &random[..CHUNK])?,
        disk_mib_per_second: disk,
        disk_cpu_seconds_per_gib: disk_cpu,
        unary_p50_ms: unary.p50_ms,
        unary_per_second: unary.per_second,
        unary_cpu_micros: unary.cpu_micros,
    })
}

/// Since when, and the CPU time until then.
struct Meter(Instant, f64);

impl Meter {
    fn start() -> Self {
        Meter(Instant::now(), own_cpu())
    }

    /// MiB/s, and CPU seconds per GiB, of moving so many bytes.
    fn moved(&self, bytes: usize) -> (f64, f64) {
        let mib = (bytes as f64 / MIB).max(1e-9);
        let spent = own_cpu() - self.1;
        (mib / self.0.elapsed().as_secs_f64(), spent * 1024.0 / mib)
    }
}

/// MiB/s, and CPU seconds per GiB, of something that moves so many bytes each time it is done.
fn rate(bytes: usize, mut once: impl FnMut()) -> (f64, f64) {
    once();
    let (meter, mut times) = (Meter::start(), 0);
    while meter.0.elapsed() < TIME {
        once();
        times += 1;
    }
    meter.moved(bytes * times)
}

fn memcpy(from: &[u8]) -> (f64, f64) {
    let mut to = vec![0; from.len()];
    rate(from.len(), || {
        to.copy_from_slice(std::hint::black_box(from));
        std::hint::black_box(&mut to);
    })
}

fn blake3(chunk: &[u8]) -> (f64, f64) {
    rate(chunk.len(), || {
        std::hint::black_box(blake3::hash(std::hint::black_box(chunk)));
    })
}

/// MiB/s, and CPU seconds per GiB.
fn loopback(piece: &[u8]) -> io::Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = TcpStream::connect(listener.local_addr()?)?;
    let (mut input, _) = listener.accept()?;
    thread::scope(|scope| {
        let meter = Meter::start();
        let reader = scope.spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; SEND], 0);
            loop {
                match input.read(&mut buffer)? {
                    0 => return io::Result::Ok(bytes),
                    n => bytes += n,
                }
            }
        });
        while meter.0.elapsed() < TIME {
            out.write_all(piece)?;
        }
        drop(out);
        let bytes = reader.join().expect("the reader does not panic")?;
        Ok(meter.moved(bytes))
    })
}

/// Median of a synced append, in milliseconds.
fn appends(dir: &Path, piece: &[u8]) -> io::Result<f64> {
    let mut file = File::create(dir.join("appended"))?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME || times.len() < 9 {
        let begin = Instant::now();
        file.write_all(piece)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1_000.0)
}

/// MiB/s of new files that are synced one after the other; each is removed as the next is written.
fn files(dir: &Path, piece: &[u8]) -> io::Result<f64> {
    let path = dir.join("file");
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < TIME || times < 3 {
        let mut file = File::create(&path)?;
        file.write_all(piece)?;
        file.sync_data()?;
        times += 1;
    }
    Ok((piece.len() * times) as f64 / MIB / start.elapsed().as_secs_f64())
}

/// MiB/s, and CPU seconds per GiB, of large new files, [`WRITERS`] at a time, two each.
fn large(dir: &Path, content: &[u8]) -> io::Result<(f64, f64)> {
    let meter = Meter::start();
    thread::scope(|scope| {
        let write = |writer: usize| {
            for turn in 0..2 {
                let file = File::create(dir.join(format!("large-{writer}-{turn}")))?;
                for (n, piece) in content.chunks(CHUNK).enumerate() {
                    file.write_all_at(piece, (n * CHUNK) as u64)?;
                }
                file.sync_data()?;
            }
            io::Result::Ok(())
        };
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| scope.spawn(move || write(n)))
            .collect();
        writers
            .into_iter()
            .try_for_each(|w| w.join().expect("a writer does not panic"))
    })?;
    Ok(meter.moved(content.len() * WRITERS * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_positive_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let limits = measure(dir.path()).unwrap();
        let figures = serde_json::to_value(&limits).unwrap();
        let figures = figures.as_object().unwrap();
        assert_eq!(figures.len(), 15);
        for (name, value) in figures {
            assert!(value.as_f64() > Some(0.0), "{name}: {value}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(limits.table().lines().count(), 16);
    }
}
