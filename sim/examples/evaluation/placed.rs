//! Keys per node, and how evenly, how near and how stably replicas are placed.

use std::fmt::Write;

use fastrand::Rng;
use peernet_core::key::Position;
use peernet_sim::scale::balance::{Layout, Standing, dealt, layouts, standing};
use peernet_sim::scale::figure::{Axis, Figure, Mark, Series};
use peernet_sim::scale::keys::{hashed, placed};

use super::{Section, goal};

pub(super) fn keys() -> Section {
    let mut rng = Rng::with_seed(1997);
    let mut text = String::from(
        "## Load: keys per node\n\nConsistent hashing as in the paper: 10,000 nodes at random positions, 1,000,000 keys. \
         (Paper, from memory: with 20 virtual nodes the 99th percentile falls from 4.8 to 1.6 times the mean.)\n\n\
         | virtual nodes each | mean | 1st | 99th | 99th / mean | fullest / mean |\n|---|---|---|---|---|---|\n",
    );
    for virtual_nodes in [1, 2, 5, 10, 20] {
        let load = hashed(10_000, virtual_nodes, 1_000_000, &mut rng);
        let _ = writeln!(
            text,
            "| {virtual_nodes} | {:.0} | {} | {} | {:.2} | {:.2} |",
            load.mean,
            load.p1,
            load.p99,
            load.p99 / load.mean,
            load.max / load.mean
        );
    }
    text += "\nOurs, slots and assigned positions: 1,000,000 chunks, three copies of each.\n\n\
             | peers | zones | mean | 1st | 99th | 99th / mean | fullest / mean |\n|---|---|---|---|---|---|---|\n";
    for (peers, zones) in [
        (5, 1),
        (5, 3),
        (9, 3),
        (20, 1),
        (20, 3),
        (100, 1),
        (100, 3),
        (200, 1),
        (200, 3),
        (1_000, 3),
    ] {
        let load = placed(peers, zones, 3, 1_000_000, &mut rng);
        let _ = writeln!(
            text,
            "| {peers} | {zones} | {:.0} | {} | {} | {:.2} | {:.2} |",
            load.mean,
            load.p1,
            load.p99,
            load.p99 / load.mean,
            load.max / load.mean
        );
    }
    Section {
        text,
        figures: Vec::new(),
        goals: Vec::new(),
    }
}

fn worst(layouts: &[Layout], of: impl Fn(&Layout) -> f64) -> (f64, u32) {
    let each = layouts.iter().map(|l| (of(l), l.peers));
    each.fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a })
}

pub(super) fn positions() -> Section {
    let mut text = String::from(
        "## Positions and balance\n\nEvery number of peers from 3 to 200, three copies, zones filled in turn. Peak to mean \
         counts slots, the proxy for bytes. *Needless* are copies that a join or leave of one peer moves between two peers \
         that stay. *Share* is what the join of one peer moves to it (and its leave moves away), over a fair share; the least \
         that could be moved is what makes up for the newcomer's share, so nothing is wasted when *needless* is 0.\n\n\
         | zones | greatest peak / mean (at) | numbers above 1.5 | longest walk | needless moves | greatest share (at) |\n\
         |---|---|---|---|---|---|\n",
    );
    let (mut one, mut many, mut walk, mut needless) = (0.0, 0.0_f64, 0, 0);
    let (mut share_one, mut share_many) = (0.0, 0.0_f64);
    let mut drawn = Vec::new();
    for zones in [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 50] {
        let all = layouts(&dealt(200, zones), 3);
        let (peak, at) = worst(&all, |l| l.peak);
        let (share, share_at) = worst(&all[1..], |l| l.last);
        let above = all.iter().filter(|l| l.peak > 1.5).count();
        let longest = all.iter().map(|l| l.walk).max().unwrap_or(0);
        let wasted = |l: &Layout| l.join.copies - l.join.needed + l.leave.copies - l.leave.needed;
        let wasted: u64 = all.iter().map(wasted).sum();
        if zones == 1 {
            (one, share_one) = (peak, share);
        } else {
            (many, share_many) = (many.max(peak), share_many.max(share));
        }
        walk = walk.max(longest);
        needless += wasted;
        let _ = writeln!(
            text,
            "| {zones} | {peak:.2} ({at}) | {above} | {longest} | {wasted} | {share:.2} ({share_at}) |"
        );
        if [1, 3].contains(&zones) {
            drawn.push((zones, all));
        }
    }
    text += "\n![Peak to mean](balance.svg)\n\n";
    text += &limits();
    text += &growing_zones();
    Section {
        text,
        figures: vec![("balance.svg", balance(&drawn))],
        goals: vec![
            goal(
                "peak to mean, 3 to 200 peers, no zones",
                "at most 1.5",
                &format!("{one:.2}"),
                one <= 1.5,
            ),
            goal(
                "the same with equal zones",
                "at most 2.0",
                &format!("{many:.2}"),
                many <= 2.0,
            ),
            goal(
                "successors walked to find three zones",
                "at most 5",
                &walk.to_string(),
                walk <= 5,
            ),
            goal(
                "bytes moved by a step of one, over the least for the same shares",
                "at most 1.1",
                if needless == 0 { "1.00" } else { "more" },
                needless == 0,
            ),
            goal(
                "the same step over a newcomer's fair share, a stricter measure",
                "at most 1.1",
                &format!("{share_one:.2} without zones, up to {share_many:.2} with"),
                share_one.max(share_many) <= 1.1,
            ),
        ],
    }
}

fn balance(drawn: &[(u32, Vec<Layout>)]) -> Figure {
    let mut rng = Rng::with_seed(7);
    let random: Vec<Standing> = dealt(200, 1)
        .into_iter()
        .map(|peer| Standing {
            position: Position(rng.u64(..)),
            ..peer
        })
        .collect();
    let line = |name: &str, all: &[Layout]| {
        Series::new(
            name,
            Mark::Line,
            all.iter().map(|l| (f64::from(l.peers), l.peak)),
        )
    };
    let mut series: Vec<Series> = Vec::new();
    for (zones, all) in drawn {
        let name = if *zones == 1 {
            "no zones".into()
        } else {
            format!("{zones} equal zones")
        };
        series.push(line(&name, all));
    }
    series.push(line("no zones, random positions", &layouts(&random, 3)));
    for (name, value) in [("goal without zones", 1.5), ("goal with zones", 2.0)] {
        series.push(Series::new(
            name,
            Mark::Dashed,
            [(0.0, value), (200.0, value)],
        ));
    }
    Figure {
        title: "The fullest peer's slots over the mean".into(),
        x: Axis::linear("peers", vec![0.0, 50.0, 100.0, 150.0, 200.0]),
        y: Axis::linear("peak to mean", vec![1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]),
        series,
    }
}

/// Where the number of zones forbids better.
fn limits() -> String {
    let mut text = String::from(
        "Copies in distinct zones come first. With three zones and three copies each zone holds one copy of everything, so a \
         zone of n peers has one with at least 1/n of it, whatever the others do:\n\n\
         | peers by zone | lowest peak / mean possible | ours |\n|---|---|---|\n",
    );
    for zones in [
        [2, 1, 1],
        [2, 2, 1],
        [3, 1, 1],
        [3, 3, 2],
        [5, 5, 1],
        [10, 2, 2],
        [20, 20, 10],
    ] {
        let zone_of: Vec<u32> = (0..3_u32)
            .flat_map(|z| vec![z; zones[z as usize]])
            .collect();
        let all = layouts(&standing(&zone_of, 3), 3);
        let Some(last) = all.last() else { continue };
        let _ = writeln!(text, "| {zones:?} | {:.2} | {:.2} |", last.best, last.peak);
    }
    text
}

/// Zones that come while the network grows.
fn growing_zones() -> String {
    let mut text = String::from(
        "\nPositions are kept for life, so those given while there were fewer zones stay. Four peers join in one zone, four in a \
         second, then the rest wherever fewest are:\n\n| zones in the end | peers | peak / mean | lowest possible |\n\
         |---|---|---|---|\n",
    );
    for zones in [2_u32, 3, 4, 6] {
        for peers in [12_usize, 24, 60] {
            let mut zone_of = Vec::new();
            let mut positions = Vec::new();
            for ordinal in 0..peers {
                let present = match ordinal {
                    0..4 => 1,
                    4..8 => 2,
                    _ => zones,
                };
                let fewest = |z: &u32| zone_of.iter().filter(|of| *of == z).count();
                let zone = (0..present).min_by_key(fewest).unwrap_or(0);
                zone_of.push(zone);
                let (own, others): (Vec<_>, Vec<_>) = zone_of
                    .iter()
                    .zip(&positions)
                    .partition(|(of, _)| **of == zone);
                let set = |v: Vec<(&u32, &Position)>| v.into_iter().map(|p| *p.1).collect();
                let at = peernet_core::placement::vacancy(zone, present, &set(own), &set(others));
                positions.push(at);
            }
            let placed = standing(&zone_of, zones);
            let peers: Vec<Standing> = placed
                .into_iter()
                .zip(positions)
                .map(|(peer, position)| Standing { position, ..peer })
                .collect();
            let all = layouts(&peers, 3);
            let Some(last) = all.last() else { continue };
            let _ = writeln!(
                text,
                "| {zones} | {} | {:.2} | {:.2} |",
                peers.len(),
                last.peak,
                last.best
            );
        }
    }
    text
}
