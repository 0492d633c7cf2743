//! One run: each cell of the plan is measured, and what it stored is removed before the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;

use super::load::{Load, OperationError, Outcome, Stock};
use super::stats::{Cell, Measurement};
use super::{Bench, BenchError, Op};
use crate::output::bytes;
use crate::progress;

/// A run.
pub(super) struct Session {
    bench: Bench,
    pub(super) load: Load,
    /// What has not been removed yet.
    current: Mutex<Option<Arc<Stock>>>,
}

impl Session {
    pub(super) fn new(bench: Bench, load: Load) -> Self {
        Session {
            bench,
            load,
            current: Mutex::default(),
        }
    }

    /// Measures all of the plan; with the results, why the last of the operations failed that did.
    pub(super) async fn all(
        &self,
        plan: &[(u64, u32)],
    ) -> Result<(Vec<Measurement>, Option<OperationError>), BenchError> {
        self.load.prepare().await?;
        let mut measurements = Vec::new();
        let mut failure = None;
        for (number, (size, concurrency)) in (0..).zip(plan) {
            let stock = Stock::new(number, *size);
            *self.current() = Some(stock.clone());
            for op in [Op::Put, Op::Get, Op::GetOne] {
                if op != Op::Put && !self.bench.op.contains(&op) {
                    continue;
                }
                let cell = Cell {
                    op,
                    size: *size,
                    concurrency: *concurrency,
                };
                let step = format!("{}/{}", number + 1, plan.len());
                let (result, last) = self.measure(cell, &stock, &step).await?;
                if self.bench.op.contains(&op) || last.is_some() {
                    measurements.push(result);
                }
                failure = last.or(failure);
            }
            self.clean().await?;
        }
        Ok((measurements, failure))
    }

    async fn measure(
        &self,
        cell: Cell,
        stock: &Arc<Stock>,
        step: &str,
    ) -> Result<Outcome, BenchError> {
        let Cell {
            op,
            size,
            concurrency,
        } = cell;
        let title = format!("{step} {op} {}, {concurrency} at once", bytes(size));
        let bar = progress::transfer(&title, None);
        let limit = match op {
            Op::Put => (self.bench.store / size.max(1)).max(1),
            Op::Get | Op::GetOne => u64::MAX,
        };
        let time = Duration::from_secs_f64(self.bench.seconds);
        let outcome = self.load.measure(cell, stock, time, limit, &bar).await;
        bar.finish_and_clear();
        outcome
    }

    /// Removes what is there now.
    pub(super) async fn clean(&self) -> Result<(), BenchError> {
        let Some(stock) = self.current().take() else {
            return Ok(());
        };
        let bar = progress::spinner("removing the files");
        let removed = self.load.remove(&stock, &ProgressBar::hidden()).await;
        bar.finish_and_clear();
        removed
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Arc<Stock>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
