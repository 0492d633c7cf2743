//! What can be done to a network.

use std::fmt;

use fastrand::Rng;

use crate::cluster::Cut;

/// Who crashes during a leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The peer that leaves.
    Leaver,
    /// One that takes over what it held.
    Receiver,
    /// The operator.
    Operator,
}

/// When.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The leave is known, nothing has moved.
    Ordered,
    /// Half of the slots have moved.
    Moving,
    /// The StatefulSet was lowered.
    Lowered,
}

/// One kind of harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// So many random pods are deleted at once, without warning.
    Kill(usize),
    /// All pods are deleted at once, with time to say goodbye or without.
    RestartAll {
        /// With the grace period.
        gently: bool,
    },
    /// `kubectl rollout restart`.
    Roll,
    /// A random node is cut off for a while.
    Cut(Cut),
    /// A random node loses its power for a while.
    PowerOff,
    /// The size is changed so many times, every few seconds, without waiting for anything.
    Storm(u32),
    /// Somebody, or nobody, crashes while one peer leaves. The peer comes back afterwards.
    CrashInLeave(Option<Victim>, Step),
    /// One peer fewer is wanted, and then not, before the operator looks again.
    Reconsider,
    /// Somebody deletes the StatefulSet, with its pods or without.
    DeleteSet {
        /// The pods stay behind.
        orphan: bool,
    },
    /// Two pods crash while the operator is away.
    OperatorAway,
    /// A random node loses its power, and one of its peers is given up (`peernet.dev/replace`) before it is back.
    Replace,
}

impl Fault {
    /// A word for tallies.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(1) => "crash",
            Fault::Kill(_) => "crashes at once",
            Fault::RestartAll { .. } => "restart of all",
            Fault::Roll => "rolling restart",
            Fault::Cut(Cut::Cable) => "cable",
            Fault::Cut(Cut::Peers) => "cut both ways",
            Fault::Cut(Cut::PeersIn | Cut::PeersOut) => "cut one way",
            Fault::PowerOff => "power off",
            Fault::Storm(_) => "storm of sizes",
            Fault::CrashInLeave(..) => "crash in a leave",
            Fault::Reconsider => "change of mind",
            Fault::DeleteSet { .. } => "StatefulSet deleted",
            Fault::OperatorAway => "operator away",
            Fault::Replace => "replacement",
        }
    }

    /// Any of them, short ones more often.
    pub fn any(random: &mut Rng) -> Self {
        let victim = [Victim::Leaver, Victim::Receiver, Victim::Operator][random.usize(..3)];
        let step = [Step::Ordered, Step::Moving, Step::Lowered][random.usize(..3)];
        let cut = [Cut::Cable, Cut::Peers, Cut::PeersIn, Cut::PeersOut][random.usize(..4)];
        match random.u32(..21) {
            0..4 => Fault::Kill(1),
            4..6 => Fault::Kill(2),
            6 => Fault::RestartAll {
                gently: random.bool(),
            },
            7 => Fault::Roll,
            8..12 => Fault::Cut(cut),
            12 => Fault::PowerOff,
            13..15 => Fault::Storm(random.u32(3..8)),
            15..17 => Fault::CrashInLeave(Some(victim), step),
            17 => Fault::Reconsider,
            18 => Fault::DeleteSet {
                orphan: random.bool(),
            },
            19 => Fault::OperatorAway,
            _ => Fault::Replace,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(count) => write!(f, "{count} killed at once"),
            Fault::RestartAll { gently: true } => write!(f, "all stopped at once"),
            Fault::RestartAll { gently: false } => write!(f, "all killed at once"),
            Fault::Cut(how) => write!(f, "cut: {how:?}"),
            Fault::Storm(changes) => write!(f, "{changes} changes of size"),
            Fault::CrashInLeave(None, _) => write!(f, "leave"),
            Fault::CrashInLeave(Some(victim), step) => {
                write!(f, "leave, {victim:?} killed when {step:?}")
            }
            Fault::DeleteSet { orphan: true } => write!(f, "StatefulSet deleted without its pods"),
            Fault::DeleteSet { orphan: false } => write!(f, "StatefulSet deleted with its pods"),
            Fault::Roll
            | Fault::PowerOff
            | Fault::Reconsider
            | Fault::OperatorAway
            | Fault::Replace => {
                write!(f, "{}", self.kind())
            }
        }
    }
}
