//! Files on their way, and how the last ones ended.

/// Transfers that may be under way or waiting at once. Guess: what fits a screen.
pub(super) const UNDER_WAY: usize = 16;
/// Ended ones that are remembered.
const REMEMBERED: usize = 100;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Put,
    Get,
}

/// How far a transfer is.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Meter {
    pub(crate) bytes: u64,
    /// Nothing when it is not known yet.
    pub(crate) size: Option<u64>,
    pub(crate) bytes_per_second: f64,
    pub(crate) seconds_left: u64,
}

/// How a transfer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Running,
    /// What became of it.
    Done(String),
    /// Why not.
    Failed(String),
    Cancelled,
}

/// One file on its way.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) id: u64,
    pub(super) way: Way,
    /// In the network.
    pub(super) name: String,
    pub(super) meter: Meter,
    pub(super) stage: Stage,
}

/// The newest first.
#[derive(Default)]
pub(super) struct Transfers {
    pub(super) all: Vec<Transfer>,
    pub(super) selected: usize,
}

impl Transfers {
    /// How many are not over.
    pub(super) fn running(&self) -> usize {
        let running = |t: &&Transfer| t.stage == Stage::Running;
        self.all.iter().filter(running).count()
    }

    /// Begins one; false when too many are under way.
    pub(super) fn begin(&mut self, id: u64, way: Way, name: &str) -> bool {
        if self.running() >= UNDER_WAY {
            return false;
        }
        let (name, meter, stage) = (name.to_owned(), Meter::default(), Stage::Running);
        self.all.insert(
            0,
            Transfer {
                id,
                way,
                name,
                meter,
                stage,
            },
        );
        let mut ended = 0;
        self.all.retain(|t| {
            ended += usize::from(t.stage != Stage::Running);
            t.stage == Stage::Running || ended <= REMEMBERED
        });
        true
    }

    /// Shows new figures.
    pub(super) fn measure(&mut self, meters: &[(u64, Meter)]) {
        for (id, meter) in meters {
            if let Some(transfer) = self.find(*id) {
                transfer.meter = *meter;
            }
        }
    }

    /// One has ended; nothing when it was over already.
    pub(super) fn end(&mut self, id: u64, stage: Stage) -> Option<&Transfer> {
        let transfer = self.find(id).filter(|t| t.stage == Stage::Running)?;
        transfer.stage = stage;
        Some(transfer)
    }

    fn find(&mut self, id: u64) -> Option<&mut Transfer> {
        self.all.iter_mut().find(|t| t.id == id)
    }
}
