//! The ring as a picture: who follows whom, clockwise from the top. Peers are drawn evenly apart, because true positions
//! may be so close that names cover each other; how much of the ring lies before each is told beside it.

use std::f64::consts::TAU;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier};
use ratatui::text::Line;
use ratatui::widgets::canvas::{Canvas, Circle};
use ratatui::widgets::{Block, Row};

use super::{sentence, style, table};
use crate::menu::app::App;
use crate::ring::arcs;
use crate::status::picture::Peer;

/// More names than this would cover each other; the others are only dots.
const NAMED: usize = 24;

/// A peer's position.
fn place(peer: &Peer) -> u64 {
    u64::from_str_radix(&peer.position, 16).unwrap_or(0)
}

/// Right and up from the centre, on a circle of radius 1: a part of it clockwise from the top.
fn point(place: f64) -> (f64, f64) {
    let angle = place * TAU;
    (angle.sin(), angle.cos())
}

/// Draws the ring and the list of its members.
pub(super) fn draw(app: &App, frame: &mut Frame, area: Rect) {
    let Some((picture, _)) = &app.network else {
        return sentence("Asking every peer…", " Ring ", frame, area);
    };
    let mut order: Vec<(u64, &Peer)> = picture.peers.iter().map(|p| (place(p), p)).collect();
    order.sort_by_key(|(place, _)| *place);
    let places: Vec<u64> = order.iter().map(|(place, _)| *place).collect();
    let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
    circle(&order, app.peer, frame, left);
    let rows = order.iter().zip(arcs(&places)).map(|((_, peer), arc)| {
        let share = Line::from(format!("{:.1} %", arc * 100.0)).right_aligned();
        Row::new([
            Line::from(peer.name.as_str()),
            Line::from(peer.zone.as_str()),
            share,
        ])
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(8),
    ];
    let header = ["NAME", "ZONE", "     ARC"];
    table(
        &header,
        &widths,
        rows.collect(),
        app.peer,
        " clockwise ".into(),
        frame,
        right,
    );
}

fn circle(order: &[(u64, &Peer)], chosen: usize, frame: &mut Frame, area: Rect) {
    // A character is about twice as high as wide, and names need room beside the circle.
    let aspect = f64::from(area.width) / (2.0 * f64::from(area.height));
    let (width, height) = (1.35 * aspect.max(1.0), 1.25 / aspect.min(1.0));
    let canvas = Canvas::default()
        .block(Block::bordered().title(" Ring "))
        .x_bounds([-width, width])
        .y_bounds([-height, height])
        .paint(|context| {
            context.draw(&Circle {
                x: 0.0,
                y: 0.0,
                radius: 1.0,
                color: Color::DarkGray,
            });
            context.layer();
            for (i, (_, peer)) in order.iter().enumerate() {
                let (x, y) = point(i as f64 / order.len() as f64);
                let color = if peer.state.is_up() {
                    Color::Green
                } else {
                    Color::Red
                };
                let mark = if peer.state.is_up() { "●" } else { "x" };
                let look = if i == chosen {
                    style(color).add_modifier(Modifier::REVERSED)
                } else {
                    style(color)
                };
                let text = if order.len() > NAMED && i != chosen {
                    mark.to_owned()
                } else {
                    format!("{mark} {}", peer.name)
                };
                context.print(x, y, Line::styled(text, look));
            }
        });
    frame.render_widget(canvas, area);
}
