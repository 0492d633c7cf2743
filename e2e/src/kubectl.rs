//! The real `kubectl`, for what users type and for what it prints.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::patience::within;

/// Longest that one command may take; `kubectl wait` included.
const LIMIT: Duration = Duration::from_secs(600);

/// What a command printed, and whether it succeeded.
#[derive(Debug)]
pub struct Printed {
    /// Exit code 0.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A command that talks to a namespace, and dies with its handle.
pub fn command<S: AsRef<OsStr>>(namespace: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--namespace").arg(namespace).args(args);
    command.kill_on_drop(true);
    command
}

/// Runs a command whatever its exit code, with `input` on its standard input.
///
/// # Errors
/// It cannot be started, or takes longer than ten minutes.
pub async fn attempt(namespace: &str, args: &[&str], input: &str) -> Result<Printed> {
    let what = format!("kubectl {}", args.join(" "));
    let mut child = command(namespace, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: eval \"$(dev/cluster env)\" puts it on the path"))?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = within(&what, LIMIT, child.wait_with_output()).await?;
    Ok(Printed {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that has to succeed, and returns its standard output.
///
/// # Errors
/// It fails; what it printed is in the error.
pub async fn run(namespace: &str, args: &[&str]) -> Result<String> {
    let printed = attempt(namespace, args, "").await?;
    if !printed.success {
        bail!("kubectl {}: {}{}", args.join(" "), printed.out, printed.err);
    }
    Ok(printed.out)
}
