//! Path length, full membership, simultaneous failures, churn.

use std::fmt::Write;

use fastrand::Rng;
use peernet_sim::scale::churn::{Churn, Setup};
use peernet_sim::scale::figure::{Axis, Figure, Mark, Series};
use peernet_sim::scale::keys;
use peernet_sim::scale::still::Still;
use peernet_sim::scale::{Lookups, Summary, gossip as membership};

use super::{Section, goal};

const SIZES: [usize; 10] = [
    10, 30, 100, 300, 1_000, 3_000, 4_096, 10_000, 30_000, 100_000,
];

fn half_log(n: usize) -> f64 {
    0.5 * (n as f64).log2()
}

pub(super) fn paths() -> Section {
    let mut rng = Rng::with_seed(2003);
    let mut text = String::from(
        "## Path length\n\nRandom positions, lists of 4 successors (as shipped), 20,000 lookups of random keys by random \
         members, fingers alone. Beside it lists of 1 and of 20, and our own positions (one zone).\n\n\
         | peers | mean | 1st | 99th | ½ log2 N (paper's mean) | list of 1 | list of 20 | our positions |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let (mut measured, mut met, mut wrong) = (Vec::new(), true, 0);
    let mut distribution = Vec::new();
    for n in SIZES {
        let mut look_up = |ring: Still| {
            let seen = ring.look_up_random(20_000, &mut rng);
            wrong += seen.wrong + seen.failed;
            seen
        };
        let mut places = Rng::with_seed(n as u64);
        let ours = look_up(Still::drawn(n, 4, &mut places));
        let short = look_up(Still::drawn(n, 1, &mut places)).paths().mean;
        let long = look_up(Still::drawn(n, 20, &mut places)).paths().mean;
        let placed = if n <= 4_096 {
            let placed = Still::new(keys::positions(n as u32), 4);
            format!("{:.2}", look_up(placed).paths().mean)
        } else {
            "more than slots".into()
        };
        let Summary { mean, p1, p99, .. } = ours.paths();
        met &= mean <= half_log(n) + 1.0;
        let _ = writeln!(
            text,
            "| {n} | {mean:.2} | {p1} | {p99} | {:.2} | {short:.2} | {long:.2} | {placed} |",
            half_log(n)
        );
        if n == 4_096 {
            distribution = shares(&ours);
        }
        measured.push((n as f64, mean, p1, p99));
    }
    let over = |(n, mean, ..): &(f64, f64, f64, f64)| mean - 0.5 * n.log2();
    let worst = measured.iter().map(over).fold(f64::MIN, f64::max);
    text += "\n![Path length](path-length.svg)\n\n![Distribution at 4,096 peers](path-distribution.svg)\n\n\
             The distribution at 4,096 peers (the paper's 2¹²), by hops: ";
    let share = |(hops, percent): &(f64, f64)| format!("{hops}: {percent:.1}%");
    text += &distribution
        .iter()
        .map(share)
        .collect::<Vec<_>>()
        .join(", ");
    text += ".\n";
    let decades = vec![10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];
    let path = Figure {
        title: "Path length with fingers alone".into(),
        x: Axis::log("peers", decades),
        y: Axis::linear("hops", (0..=8).map(|n| f64::from(n) * 2.0).collect()),
        series: vec![
            Series::new("mean", Mark::Line, measured.iter().map(|m| (m.0, m.1))),
            Series::range(
                "1st to 99th percentile",
                measured.iter().map(|m| (m.0, m.2, m.3)),
            ),
            Series::new(
                "½ log2 N",
                Mark::Dashed,
                measured.iter().map(|m| (m.0, 0.5 * m.0.log2())),
            ),
            Series::new(
                "goal: ½ log2 N + 1",
                Mark::Dashed,
                measured.iter().map(|m| (m.0, 0.5 * m.0.log2() + 1.0)),
            ),
        ],
    };
    let spread = Figure {
        title: "Path length at 4,096 peers".into(),
        x: Axis::linear("hops", (0..=14).map(f64::from).collect()),
        y: Axis::linear(
            "% of lookups",
            (0..=5).map(|n| f64::from(n) * 5.0).collect(),
        ),
        series: vec![Series::new("lookups", Mark::Bars, distribution)],
    };
    Section {
        text,
        figures: vec![("path-length.svg", path), ("path-distribution.svg", spread)],
        goals: vec![
            goal(
                "mean path, fingers alone, 10 to 100,000 peers",
                "at most ½ log2 N + 1",
                &format!("at most ½ log2 N {worst:+.2}"),
                met,
            ),
            goal(
                "wrong or failed lookups there",
                "0",
                &wrong.to_string(),
                wrong == 0,
            ),
        ],
    }
}

/// Percent of lookups by path length.
fn shares(seen: &Lookups) -> Vec<(f64, f64)> {
    let most = seen.hops.iter().max().copied().unwrap_or(0);
    let share = |hops: u32| {
        let such = seen.hops.iter().filter(|h| **h == hops).count();
        (
            f64::from(hops),
            such as f64 * 100.0 / seen.hops.len() as f64,
        )
    };
    (0..=most).map(share).collect()
}

pub(super) fn gossip() -> Section {
    let mut text = String::from(
        "## Hops when all members are known\n\nUp to about a thousand peers everybody knows everybody by gossip, and a \
         lookup goes to the owner at once. Joins and failures per second as given (each), 10 lookups a second for 20 \
         minutes; how fast news spread is acted out with the numbers of `core::config`.\n\n\
         | peers | churn /s | mean hops | 99th | mean timeouts | wrong | failed |\n|---|---|---|---|---|---|---|\n",
    );
    let (mut most, mut bad) = (0.0_f64, 0);
    for (n, churn) in [
        (3, 0.0),
        (10, 0.0),
        (30, 0.02),
        (100, 0.05),
        (300, 0.05),
        (1_000, 0.05),
        (1_000, 0.4),
    ] {
        let seen = membership::run(n, churn, 1_200, n as u64);
        let (paths, waits) = (seen.paths(), seen.waits());
        most = most.max(paths.mean);
        bad += seen.wrong + seen.failed;
        let _ = writeln!(
            text,
            "| {n} | {churn} | {:.3} | {} | {:.4} | {} | {} |",
            paths.mean, paths.p99, waits.mean, seen.wrong, seen.failed
        );
    }
    Section {
        text,
        figures: Vec::new(),
        goals: vec![
            goal(
                "mean hops with gossiped membership, up to 1,000 peers",
                "below 1.5",
                &format!("at most {most:.2}"),
                most < 1.5,
            ),
            goal(
                "wrong or failed lookups there",
                "0",
                &bad.to_string(),
                bad == 0,
            ),
        ],
    }
}

/// From memory: fraction failed, mean path, mean timeouts.
const PAPER_FAILURES: [(f64, f64, f64); 6] = [
    (0.0, 3.84, 0.0),
    (0.1, 4.03, 0.60),
    (0.2, 4.22, 1.17),
    (0.3, 4.44, 2.02),
    (0.4, 4.69, 3.23),
    (0.5, 5.09, 5.10),
];

pub(super) fn failures() -> Section {
    let mut text = String::from(
        "## Simultaneous failures\n\n1,000 peers with lists of 20 successors; a fraction dies at once and nobody has noticed \
         yet: 10,000 lookups in each of five rings. Then the ring mends itself for 30 minutes (a stabilisation each 15 to 45 \
         s) and the lookups are tried again.\n\n\
         | failed | path: ours (1st, 99th) | paper | timeouts: ours (1st, 99th) | paper | wrong | failed | after mending: \
         timeouts | wrong or failed |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let (mut bad, mut bad_later) = (0, 0);
    let mut measured = Vec::new();
    for (fraction, paper_path, paper_timeouts) in PAPER_FAILURES {
        let mut seen = Lookups::default();
        for seed in 0..5 {
            let mut rng = Rng::with_seed(500 + seed);
            let mut ring = Still::drawn(1_000, 20, &mut rng);
            ring.kill(fraction, &mut rng);
            let more = ring.look_up_random(10_000, &mut rng);
            seen.hops.extend(more.hops);
            seen.timeouts.extend(more.timeouts);
            seen.wrong += more.wrong;
            seen.failed += more.failed;
        }
        let mut mending = Churn::new(Setup::paper(0.0), 17);
        mending.kill(fraction);
        mending.run(30 * 60_000);
        let later = mending.run(15 * 60_000);
        bad += seen.wrong + seen.failed;
        bad_later += later.wrong + later.failed;
        let (paths, waits) = (seen.paths(), seen.waits());
        measured.push((fraction, paths.mean, waits.mean));
        let _ = writeln!(
            text,
            "| {fraction} | {:.2} ({}, {}) | {paper_path:.2} | {:.2} ({}, {}) | {paper_timeouts:.2} | {} | {} | {:.3} | {} |",
            paths.mean,
            paths.p1,
            paths.p99,
            waits.mean,
            waits.p1,
            waits.p99,
            seen.wrong,
            seen.failed,
            later.waits().mean,
            later.wrong + later.failed
        );
    }
    text += "\n![Simultaneous failures](failures.svg)\n\n";
    let mut rng = Rng::with_seed(42);
    let mut short = Still::drawn(1_000, 4, &mut rng);
    short.kill(0.5, &mut rng);
    let seen = short.look_up_random(10_000, &mut rng);
    let _ = writeln!(
        text,
        "With the shipped list of 4 successors alone, {:.0}% of lookups find nobody while half of all peers are dead, and {} \
         are answered wrongly: a member whose whole list died is cut off. Shipped peers have gossip of all members beside \
         it, up to a thousand; a larger network wants a longer list (`core::config::SUCCESSORS`).",
        f64::from(seen.failed) / 100.0,
        seen.wrong
    );
    let line =
        |name: &str, mark, of: &dyn Fn(&(f64, f64, f64)) -> f64, from: &[(f64, f64, f64)]| {
            Series::new(name, mark, from.iter().map(|row| (row.0, of(row))))
        };
    let figure = Figure {
        title: "1,000 peers, a fraction of which dies at once".into(),
        x: Axis::linear(
            "fraction of peers that died",
            vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        ),
        y: Axis::linear("mean per lookup", (0..=8).map(f64::from).collect()),
        series: vec![
            line("hops", Mark::Line, &|r| r.1, &measured),
            line("timeouts", Mark::Line, &|r| r.2, &measured),
            line(
                "hops, paper (from memory)",
                Mark::Dashed,
                &|r| r.1,
                &PAPER_FAILURES,
            ),
            line(
                "timeouts, paper (from memory)",
                Mark::Dashed,
                &|r| r.2,
                &PAPER_FAILURES,
            ),
        ],
    };
    Section {
        text,
        figures: vec![("failures.svg", figure)],
        goals: vec![
            goal(
                "up to half of 1,000 peers killed at once: wrong or failed lookups",
                "0 wrong",
                &bad.to_string(),
                bad == 0,
            ),
            goal(
                "the same after retry",
                "0 wrong, 0 failed",
                &bad_later.to_string(),
                bad_later == 0,
            ),
        ],
    }
}

/// From memory: joins and failures per second, mean path, mean timeouts, failures in 10,000 lookups.
const PAPER_CHURN: [(f64, f64, f64, f64); 8] = [
    (0.05, 3.90, 0.05, 0.0),
    (0.10, 3.83, 0.11, 0.0),
    (0.15, 3.84, 0.16, 2.0),
    (0.20, 3.81, 0.23, 5.0),
    (0.25, 3.83, 0.30, 6.0),
    (0.30, 3.91, 0.34, 8.0),
    (0.35, 3.94, 0.42, 16.0),
    (0.40, 4.06, 0.46, 15.0),
];

pub(super) fn churn() -> Section {
    let mut text = String::from(
        "## Lookups during stabilisation\n\n1,000 peers at first, lists of 20 successors, a stabilisation each 15 to 45 s, \
         messages of 50 ms in the mean, timeouts of 500 ms; members join and members fail without a word, each at the given \
         rate. Ten lookups a second for 100 minutes after 15 minutes of the same. An answer is right if the member found is \
         the key's first live member when the answer arrives (a newcomer counts once the member after it knows); *overtaken* are answers that were right when they were given, \
         one message earlier.\n\n\
         | rate /s | path: ours (1st, 99th) | paper | timeouts: ours | paper | lookups | wrong | failed | overtaken | in \
         10,000: ours | paper |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut measured = Vec::new();
    let mut worst = 0.0_f64;
    for (rate, paper_path, paper_timeouts, paper_failures) in PAPER_CHURN {
        let mut network = Churn::new(Setup::paper(rate), (rate * 100.0) as u64);
        network.run(15 * 60_000);
        let seen = network.run(100 * 60_000);
        let paths = seen.paths();
        let bad = seen.per_ten_thousand();
        worst = worst.max(bad);
        measured.push((rate, bad));
        let _ = writeln!(
            text,
            "| {rate:.2} | {:.2} ({}, {}) | {paper_path:.2} | {:.2} | {paper_timeouts:.2} | {} | {} | {} | {} | {bad:.2} | \
             {paper_failures} |",
            paths.mean,
            paths.p1,
            paths.p99,
            seen.waits().mean,
            paths.count,
            seen.wrong,
            seen.failed,
            seen.overtaken
        );
    }
    text += "\n![Lookups under churn](churn.svg)\n\nTwo things make the difference to the paper: the owner itself confirms an \
             answer, and a member that is displaced as predecessor is told so and stabilises at once. The latter is acted out by the \
             simulator; a shipped peer hears of newcomers by gossip and stabilises each second.\n";
    let figure = Figure {
        title: "Lookups that went wrong under churn".into(),
        x: Axis::linear(
            "joins per second, and failures per second",
            (0..=8).map(|n| f64::from(n) * 0.05).collect::<Vec<_>>(),
        ),
        y: Axis::linear(
            "wrong or failed in 10,000",
            (0..=5).map(|n| f64::from(n) * 4.0).collect(),
        ),
        series: vec![
            Series::new("ours", Mark::Line, measured),
            Series::new(
                "paper (from memory)",
                Mark::Dashed,
                PAPER_CHURN.iter().map(|row| (row.0, row.3)),
            ),
        ],
    };
    Section {
        text,
        figures: vec![("churn.svg", figure)],
        goals: vec![goal(
            "wrong or failed lookups up to the paper's highest churn",
            "at most 1 in 10,000",
            &format!("at most {worst:.2} in 10,000"),
            worst <= 1.0,
        )],
    }
}
