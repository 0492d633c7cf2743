//! Writes `docs/evaluation.md` and its pictures: the evaluation of the Chord paper repeated with our code, and how evenly
//! peers are placed. Takes some minutes; the same code gives the same text.
//!
//! `cargo run --release -p peernet-sim --example evaluation`

use std::fs;
use std::path::Path;

use peernet_sim::scale::figure::Figure;

mod lookups;
mod placed;

/// A part of the page.
struct Section {
    /// Its text.
    text: String,
    /// File names and pictures.
    figures: Vec<(&'static str, Figure)>,
    /// Lines for the table of goals.
    goals: Vec<String>,
}

/// A line of the table of goals.
fn goal(what: &str, wanted: &str, measured: &str, met: bool) -> String {
    let met = if met { "yes" } else { "**no**" };
    format!("| {what} | {wanted} | {measured} | {met} |\n")
}

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let sections = [
        lookups::paths(),
        lookups::gossip(),
        lookups::failures(),
        lookups::churn(),
        placed::keys(),
        placed::positions(),
    ];
    let mut page = String::from(INTRODUCTION);
    page += "| goal | wanted | measured | met |\n|---|---|---|---|\n";
    page.extend(sections.iter().flat_map(|s| s.goals.iter().cloned()));
    for section in &sections {
        page += "\n";
        page += &section.text;
        for (name, figure) in &section.figures {
            fs::write(docs.join(name), figure.svg())?;
        }
    }
    fs::write(docs.join("evaluation.md"), page)
}

const INTRODUCTION: &str = "\
# Evaluation at scale

Made by `cargo run --release -p peernet-sim --example evaluation`; the same code gives the same page. In short form the
goals are asserted by `cargo test -p peernet-sim --test evaluation`.

The functions that ship (`core::{ring, chord, fingers, lookup, placement}`) run here on plain arrays, 10 to 100,000 peers
in one process. The first four parts repeat section V of the Chord paper (Stoica et al., \"Chord: A Scalable Peer-to-Peer
Lookup Protocol for Internet Applications\", IEEE/ACM Transactions on Networking, 2003). **The paper's figures stand here
from memory**: of the copies within reach only the opening pages could be read, so check them before quoting.

A hop is a member that was asked and answered. Unlike the paper's, our lookups end with a question to the owner itself,
which confirms the answer; that is one hop more where no list of successors shortens the way.

";
