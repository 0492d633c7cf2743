//! Results on standard output: aligned tables for people, JSON and YAML for scripts.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

impl Format {
    /// Prints `value` whole as JSON or YAML; false when a table is wanted instead.
    pub fn document(self, value: &impl Serialize) -> io::Result<bool> {
        let text = match self {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => serde_json::to_string_pretty(value)? + "\n",
            Format::Yaml => serde_yaml::to_string(value).map_err(io::Error::other)?,
        };
        raw(&text)?;
        Ok(true)
    }

    /// One document is wanted, for a program.
    pub fn is_document(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }

    /// A table with more columns is wanted.
    pub fn is_wide(self) -> bool {
        self == Format::Wide
    }
}

/// Prints lines for people, with [`visible`] control characters.
pub fn print(text: &str) -> io::Result<()> {
    raw(&visible_lines(text)).map(drop)
}

/// Writes to standard output as it is and flushes it. A reader that has seen enough and closed its end is no failure: false
/// says that nobody reads any more.
pub(crate) fn raw(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Returns when nobody reads any more from the other end of the pipe `out`; never when it is something else, such as a file.
pub(crate) async fn closed(out: impl AsFd + Send + 'static) {
    // A pipe's writing end comes into the error condition when its last reader is gone; no other event is asked for, see
    // poll(2).
    let watched = tokio::task::spawn_blocking(move || {
        let mut out = [PollFd::new(&out, PollFlags::empty())];
        retry_on_intr(|| poll(&mut out, None))
    });
    if !matches!(watched.await, Ok(Ok(_))) {
        std::future::pending().await
    }
}

/// What others wrote, on one line: its control characters are shown escaped, so that they can neither end the line nor
/// command the terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// The same for a text whose lines are meant.
pub(crate) fn visible_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(visible).collect();
    lines.join("\n")
}

/// A table without borders, as `kubectl` prints them, its cells [`visible`]. A header that ends with `>` marks a column of numbers.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|h| h.trim_end_matches('>')));
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if header[i].ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `true` when `NO_COLOR` (no-color.org) is set and not empty.
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// `true` when escape sequences are welcome on standard output: a terminal, and no word against colours.
fn colors() -> bool {
    !no_color()
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        && io::stdout().is_terminal()
}

/// The first word of a verdict: green when all is well, yellow when not, plain where colours are not wanted.
pub fn verdict_word(word: &str, well: bool) -> String {
    if colors() {
        format!("\x1b[1;{}m{word}\x1b[0m", if well { 32 } else { 33 })
    } else {
        word.to_owned()
    }
}

/// What compressing has made of that many bytes, to be told after them; nothing where nothing came of it.
pub(crate) fn compressed(size: u64, stored: Option<u64>) -> String {
    match stored.filter(|stored| *stored < size) {
        Some(stored) => format!(", compressed to {}", bytes(stored)),
        None => String::new(),
    }
}

/// Bytes with a binary unit, such as `5.0 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 peer`, `2 peers`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, to the second.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 0000-03-01, so that a leap day is the last of its year; an era is 400 years, always equally long.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_a_tenth_of_a_binary_unit() {
        let expected = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in expected {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn moments_are_dates_in_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(951_782_399_000), "2000-02-28T23:59:59Z");
        assert_eq!(moment(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(moment(1_795_197_845_123), "2026-11-20T18:04:05Z");
    }

    #[test]
    fn tables_are_aligned_without_borders() {
        let text = table(
            &["NAME", "SIZE>"],
            [
                vec!["a".into(), "1 B".into()],
                vec!["bcdef".into(), "10 B".into()],
            ],
        );
        assert_eq!(text, "NAME   SIZE\na       1 B\nbcdef  10 B\n");
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(visible("a\u{1b}[2J\n\u{9b}ä"), "a\\u{1b}[2J\\n\\u{9b}ä");
        assert_eq!(visible_lines("a\r\nb\u{7}\n"), "a\\r\nb\\u{7}\n");
        let text = table(&["NAME"], [vec!["a\nb\u{1b}c".into()]]);
        assert_eq!(text, "NAME\na\\nb\\u{1b}c\n");
    }

    #[tokio::test]
    async fn a_pipe_that_nobody_reads_is_closed() {
        let (reader, writer) = io::pipe().unwrap();
        let mut closed = std::pin::pin!(closed(writer));
        assert!(futures::poll!(&mut closed).is_pending());
        drop(reader);
        closed.await;
    }

    #[test]
    fn nouns_are_counted() {
        assert_eq!(counted(1, "peer"), "1 peer");
        assert_eq!(counted(0, "peer"), "0 peers");
    }
}
