//! Drawing what the application knows. Pure: the same state gives the same screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState, Tabs, Wrap};

use crate::menu::app::{App, Message, Pane};
use crate::menu::listing::Listing;
use crate::menu::transfers::{Meter, Stage, Transfer, Way};
use crate::output;

mod ring;

/// What fits less says nothing useful.
const LEAST: (u16, u16) = (50, 12);

/// Colours are left out where they are not wanted (no-color.org).
pub(super) fn style(color: Color) -> Style {
    if output::no_color() {
        Style::new()
    } else {
        Style::new().fg(color)
    }
}

/// Draws the whole screen.
pub(super) fn draw(app: &App, frame: &mut Frame) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!(
            "The menu needs {} columns and {} lines. q leaves.",
            LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), area);
        return;
    }
    let rows = [
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(2),
        Constraint::Length(1),
    ];
    let [tabs, body, message, keys] = Layout::vertical(rows).areas(area);
    let titles = Pane::ALL
        .iter()
        .enumerate()
        .map(|(i, p)| format!("{} {}", i + 1, p.title()));
    let tab_bar = Tabs::new(titles)
        .select(app.pane as usize)
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(tab_bar, tabs);
    match app.pane {
        Pane::Files => files(&app.files, "No files yet: p stores one.", frame, body),
        Pane::Search => files(
            &app.found,
            "No name begins so: / looks for others.",
            frame,
            body,
        ),
        Pane::Peers => peers(app, frame, body),
        Pane::Ring => ring::draw(app, frame, body),
        Pane::Transfers => transfers(app, frame, body),
    }
    last_lines(app, frame, message, keys);
    if app.help {
        help(frame, area);
    }
}

fn last_lines(app: &App, frame: &mut Frame, message: Rect, keys: Rect) {
    if let Some(prompt) = &app.prompt {
        let text = format!("{}{}", prompt.words(), prompt.text);
        // Of what is too long the end is shown: there the next letter goes.
        let room = usize::from(message.width) * usize::from(message.height) - 1;
        let line = Line::from(text.clone());
        let over = line.width().saturating_sub(room);
        let shown: String = text.chars().skip(over).collect();
        let lines = [
            Span::styled(shown, Style::new().add_modifier(Modifier::BOLD)),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
        ];
        frame.render_widget(
            Paragraph::new(Line::from_iter(lines)).wrap(Wrap { trim: false }),
            message,
        );
        frame.render_widget(
            Paragraph::new("Enter or y: go on   Esc or n: take it back"),
            keys,
        );
        return;
    }
    let (word, color, text) = match &app.message {
        Message::Busy(text) => ("... ", Color::Cyan, text),
        Message::Done(text) => ("ok: ", Color::Green, text),
        Message::Failed(text) => ("failed: ", Color::Red, text),
    };
    let line = Line::from_iter([Span::styled(word, style(color)), Span::raw(text)]);
    frame.render_widget(Paragraph::new(line).wrap(Wrap { trim: true }), message);
    let of_pane = match app.pane {
        Pane::Files | Pane::Search => "p put  g get  d delete  P pin  / search",
        Pane::Peers | Pane::Ring => "up/down choose  r refresh",
        Pane::Transfers => "up/down choose  c cancel",
    };
    let dim = Style::new().add_modifier(Modifier::DIM);
    let line = format!("{of_pane}   1-5, Tab panes  ? help  q quit");
    frame.render_widget(Paragraph::new(line).style(dim), keys);
}

/// A table of which the chosen row is kept on the screen.
fn table<'a>(
    header: &[&'a str],
    widths: &[Constraint],
    rows: Vec<Row<'a>>,
    selected: usize,
    title: String,
    frame: &mut Frame,
    area: Rect,
) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let table = Table::new(rows, widths)
        .header(Row::new(header.iter().copied()).style(bold))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    let mut state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn sentence(text: &str, title: &str, frame: &mut Frame, area: Rect) {
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: true }).block(block),
        area,
    );
}

fn files(listing: &Listing, none: &str, frame: &mut Frame, area: Rect) {
    let title = match (listing.prefix.as_str(), listing.more()) {
        ("", false) => format!(" {} ", output::counted(listing.files.len() as u64, "file")),
        ("", true) => format!(" the first {} files ", listing.files.len()),
        (prefix, _) => format!(" {} beginning with {prefix} ", listing.files.len()),
    };
    if listing.files.is_empty() {
        let text = if listing.known {
            none
        } else {
            "/ looks for names that begin so; r lists them again."
        };
        sentence(text, &title, frame, area);
        return;
    }
    // Rows that are not on the screen need not be built.
    let height = usize::from(area.height);
    let first = listing.selected.saturating_sub(height);
    let shown = listing.files.iter().skip(first).take(2 * height);
    let rows = shown.map(|f| {
        let size = Cell::new(Line::from(output::bytes(f.size)).right_aligned());
        Row::new([
            size,
            Cell::new(f.modified.as_str()),
            Cell::new(if f.pinned { "*" } else { "" }),
            Cell::new(f.name.as_str()),
        ])
    });
    let widths = [
        Constraint::Length(11),
        Constraint::Length(20),
        Constraint::Length(1),
        Constraint::Fill(1),
    ];
    let selected = listing.selected - first;
    table(
        &["       SIZE", "MODIFIED", "", "NAME"],
        &widths,
        rows.collect(),
        selected,
        title,
        frame,
        area,
    );
}

fn peers(app: &App, frame: &mut Frame, area: Rect) {
    let Some((picture, verdict)) = &app.network else {
        return sentence("Asking every peer…", " Peers ", frame, area);
    };
    let [top, below] = Layout::vertical([Constraint::Length(3), Constraint::Min(3)]).areas(area);
    let color = if verdict.degraded {
        Color::Yellow
    } else {
        Color::Green
    };
    let words = [
        Line::styled(verdict.verdict.as_str(), style(color)),
        Line::from(verdict.tolerance.as_str()),
    ];
    frame.render_widget(
        Paragraph::new(words.to_vec()).wrap(Wrap { trim: true }),
        top,
    );
    let rows = picture.peers.iter().map(|p| {
        let figures = p.figures.as_ref();
        let figure = |text: Option<String>| Line::from(text.unwrap_or("-".into())).right_aligned();
        Row::new([
            Line::from(p.name.as_str()),
            Line::from(p.zone.as_str()),
            Line::from(p.state.to_string()),
            figure(figures.map(|f| f.slots.to_string())),
            figure(figures.map(|f| f.chunks.to_string())),
            figure(figures.map(|f| output::bytes(f.bytes))),
            Line::from(p.address.as_str()),
        ])
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(11),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Fill(3),
    ];
    let header = [
        "NAME",
        "ZONE",
        "STATE",
        "SLOTS",
        " CHUNKS",
        "     BYTES",
        "ADDRESS",
    ];
    let title = format!(" {} ", output::counted(picture.peers.len() as u64, "peer"));
    table(
        &header,
        &widths,
        rows.collect(),
        app.peer,
        title,
        frame,
        below,
    );
}

fn transfers(app: &App, frame: &mut Frame, area: Rect) {
    let all = &app.transfers.all;
    let fetches = &app.swarm.fetches;
    if all.is_empty() && fetches.all.is_empty() {
        let text =
            "Nothing was put or got yet, and no shared file is on its way to the asked peer.";
        return sentence(text, " Transfers ", frame, area);
    }
    let rows = all.iter().map(|t| {
        let way = match t.way {
            Way::Put => "put",
            Way::Get => "get",
        };
        Row::new([
            Cell::new(way),
            Cell::new(t.name.as_str()),
            Cell::new(stage(t)),
        ])
    });
    let swarm = fetches.all.iter().map(|fetch| {
        Row::new([
            Cell::new("swarm"),
            Cell::new(fetch.name.as_str()),
            Cell::new(figures(&fetch.meter)),
        ])
    });
    let widths = [
        Constraint::Length(5),
        Constraint::Fill(1),
        Constraint::Fill(2),
    ];
    let title = match fetches.all.len() {
        0 => format!(" {} under way ", app.transfers.running()),
        n => {
            let peer = &fetches.peer;
            format!(" {} under way, and {n} to {peer} ", app.transfers.running())
        }
    };
    table(
        &["WAY", "NAME", "STATE"],
        &widths,
        rows.chain(swarm).collect(),
        app.transfers.selected,
        title,
        frame,
        area,
    );
}

fn stage(transfer: &Transfer) -> Line<'_> {
    match &transfer.stage {
        Stage::Running => Line::from(figures(&transfer.meter)),
        Stage::Done(place) => Line::styled(format!("done: {place}"), style(Color::Green)),
        Stage::Failed(reason) => Line::styled(format!("failed: {reason}"), style(Color::Red)),
        Stage::Cancelled => Line::styled("cancelled", style(Color::Yellow)),
    }
}

/// `[=====     ] 12.0 MiB of 24.0 MiB, 8.0 MiB/s, 2 s left`.
fn figures(meter: &Meter) -> String {
    const WIDTH: u64 = 10;
    let moved = output::bytes(meter.bytes);
    let rate = output::bytes(meter.bytes_per_second as u64);
    match meter.size {
        Some(size) => {
            let filled = (meter.bytes.min(size) * WIDTH)
                .checked_div(size)
                .unwrap_or(0) as usize;
            let bar = format!("[{:<10}]", "=".repeat(filled));
            let size = output::bytes(size);
            let left = meter.seconds_left;
            match meter.bytes_per_second as u64 {
                0 => format!("{bar} {moved} of {size}, waiting"),
                _ => format!("{bar} {moved} of {size}, {rate}/s, {left} s left"),
            }
        }
        None if meter.bytes == 0 => "waiting".into(),
        None => format!("{moved}, {rate}/s"),
    }
}

fn help(frame: &mut Frame, area: Rect) {
    let lines = [
        "1-5, Tab, arrows   files, search, peers, ring, transfers",
        "up, down, PgUp, PgDn, Home, End   choose",
        "p        put: store a local file",
        "g Enter  get: fetch the chosen file",
        "m        give the chosen file another name",
        "d        delete the chosen file, after a question",
        "P        pin the chosen file (then it has a *), or unpin it",
        "/        search: names that begin with what you type",
        "c        cancel the chosen transfer, or the peer's fetch (in 5)",
        "r        ask again",
        "q        quit; ctrl-C at once",
        "",
        "Any key closes this.",
    ];
    let (width, height) = (area.width.min(64), area.height.min(lines.len() as u16 + 2));
    let place = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let text: Vec<Line> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(
        Paragraph::new(text).block(Block::bordered().title(" Keys ")),
        place,
    );
}
