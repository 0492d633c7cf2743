//! `peernet replace`: tells a running `peernet up` that a peer's volume is gone for good, and watches it begin anew.

use crate::args::{Global, Replace};
use crate::output;
use crate::runner::control::Request;
use crate::scale::{ScaleError, find, watch};

/// Replaces the peer and waits until that is done.
pub async fn run(global: &Global, replace: Replace) -> Result<(), ScaleError> {
    let Replace { peer, dir } = replace;
    let instead = format!("kubectl annotate pn/NAME peernet.dev/replace={peer}");
    let stream = find(dir.as_deref(), instead).await?;
    let progress = watch(stream, Request::Replace { peer }).await?;
    let printed = global.common.output.document(&progress);
    if !printed.map_err(ScaleError::Print)?
        && let Some(ended) = &progress.replacement
    {
        let line = format!("{}: {}\n", ended.name, ended.sentence);
        output::print(&line).map_err(ScaleError::Print)?;
    }
    Ok(())
}
