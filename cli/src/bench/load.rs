//! The load: workers with a connection each, which do one operation after the other until the time is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::content::{Content, ContentBody, Object};
use super::stats::{Cell, Measurement, Spent, Tally};
use super::target::{Target, Verb};
use super::usage::{self, UsageError};
use super::{BenchError, Op};
use crate::output;

/// How long one operation may take, and a connection to be made (guess: 512 MiB at 2 MiB/s).
const PATIENCE: Duration = Duration::from_secs(256);
/// So many failures end a measurement: the rest would be alike.
const FAILURES: u64 = 16;
/// Most operations of a measurement, to bound what is remembered of them.
const MOST: u64 = 1_000_000;
/// Files removed at a time.
const REMOVERS: u32 = 16;
/// Of a refusal's words, so much is read.
const WORDS: usize = 4096;

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum OperationError {
    /// No connection.
    #[error("{address} cannot be connected to: {reason}")]
    Connect {
        /// host:port
        address: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The server refused.
    #[error("the server answered {status}: {words}")]
    Refused {
        /// With this.
        status: StatusCode,
        /// And these words.
        words: String,
    },
    /// What was read is not what was stored.
    #[error("what was read of {name} is not what was stored")]
    Wrong {
        /// Number of the measurement and of the object.
        name: String,
    },
    /// It took too long.
    #[error("an operation took more than {} s", PATIENCE.as_secs())]
    Slow,
}

/// What a load is made of.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Whom it is for.
    pub(crate) target: Target,
    /// What is stored.
    pub(crate) content: Content,
    /// Whether content that is read is compared with what was stored.
    pub(crate) verify: bool,
    /// Processes of the servers.
    pub(crate) pids: Vec<u32>,
}

/// The objects of a cell.
#[derive(Debug)]
pub(crate) struct Stock {
    cell: u32,
    size: u64,
    /// Numbers below this may be there, whether or not their store was acknowledged.
    tried: AtomicU64,
    /// Those that were acknowledged.
    there: Mutex<Vec<u64>>,
}

/// What all workers of a measurement share.
struct Work {
    load: Load,
    stock: Arc<Stock>,
    verb: Verb,
    /// Number of the next operation.
    next: AtomicU64,
    /// As many as there may be.
    limit: u64,
    /// No operation begins after it but a worker's first.
    until: Instant,
    /// What is read or removed.
    objects: Vec<u64>,
    tally: Mutex<Tally>,
    last: Mutex<Option<OperationError>>,
    bar: ProgressBar,
}

impl Stock {
    pub(crate) fn new(cell: u32, size: u64) -> Arc<Self> {
        Arc::new(Stock {
            cell,
            size,
            tried: AtomicU64::new(0),
            there: Mutex::default(),
        })
    }

    fn object(&self, number: u64) -> Object {
        Object {
            cell: self.cell,
            number,
            size: self.size,
        }
    }
}

/// A result, and why the last of those operations failed that did.
pub(crate) type Outcome = (Measurement, Option<OperationError>);

impl Load {
    /// Makes what has to be there before files can be stored.
    pub(crate) async fn prepare(&self) -> Result<(), OperationError> {
        let Some(request) = self.target.preparation(&self.content) else {
            return Ok(());
        };
        let mut link = Link::open(&self.target, 0).await?;
        let response = link.sender.send_request(request).await?;
        match response.status() {
            // It is there.
            StatusCode::CONFLICT => Ok(()),
            _ => drain(accepted(response).await?).await,
        }
    }

    /// Stores for so long, or reads what was stored: at least once per worker, at most `limit` times.
    pub(crate) async fn measure(
        &self,
        cell: Cell,
        stock: &Arc<Stock>,
        time: Duration,
        limit: u64,
        bar: &ProgressBar,
    ) -> Result<Outcome, BenchError> {
        let objects = match cell.op {
            Op::Put => Vec::new(),
            Op::Get | Op::GetOne => lock(&stock.there).clone(),
        };
        let verb = match cell.op {
            Op::Put => Verb::Put,
            Op::Get => Verb::Get,
            Op::GetOne => Verb::GetOne,
        };
        let links = self.connect(cell.concurrency).await?;
        let before = self.usage()?;
        let (cpu, start) = (usage::own_cpu(), Instant::now());
        let work = Arc::new(Work {
            load: self.clone(),
            stock: stock.clone(),
            verb,
            next: AtomicU64::new(0),
            limit: limit.min(MOST),
            until: start + time,
            objects,
            tally: Mutex::new(Tally::new()),
            last: Mutex::default(),
            bar: bar.clone(),
        });
        run(&work, links).await;
        let wall = start.elapsed();
        let own_cpu = usage::own_cpu() - cpu;
        let servers = match (before, self.usage()?) {
            (Some(before), Some(after)) => Some(usage::Servers {
                cpu_seconds: after.cpu_seconds - before.cpu_seconds,
                ..after
            }),
            _ => None,
        };
        let spent = Spent {
            wall,
            own_cpu,
            servers,
        };
        let result = Measurement::new(cell, &lock(&work.tally), spent);
        Ok((result, lock(&work.last).take()))
    }

    /// Removes all that was tried to be stored; why something is left.
    pub(crate) async fn remove(
        &self,
        stock: &Arc<Stock>,
        bar: &ProgressBar,
    ) -> Result<(), BenchError> {
        let tried = stock.tried.load(Ordering::Relaxed);
        if tried == 0 {
            return Ok(());
        }
        let links = self.connect(REMOVERS).await?;
        let work = Arc::new(Work {
            load: self.clone(),
            stock: stock.clone(),
            verb: Verb::Delete,
            next: AtomicU64::new(0),
            limit: tried,
            until: Instant::now() + PATIENCE,
            objects: (0..tried).collect(),
            tally: Mutex::new(Tally::new()),
            last: Mutex::default(),
            bar: bar.clone(),
        });
        run(&work, links).await;
        stock.tried.store(0, Ordering::Relaxed);
        match lock(&work.last).take() {
            None => Ok(()),
            Some(last) => Err(BenchError::Left {
                prefix: self.target.prefix().to_owned(),
                last,
            }),
        }
    }

    async fn connect(&self, count: u32) -> Result<Vec<Link>, BenchError> {
        let mut links = Vec::new();
        for number in 0..count as usize {
            let link = timeout(PATIENCE, Link::open(&self.target, number)).await;
            links.push(link.map_err(|_| OperationError::Slow).flatten()?);
        }
        Ok(links)
    }

    fn usage(&self) -> Result<Option<usage::Servers>, UsageError> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        usage::of(&self.pids).map(Some)
    }
}

/// One worker per connection. Dropped, it ends them.
async fn run(work: &Arc<Work>, links: Vec<Link>) {
    let mut workers: JoinSet<()> = links
        .into_iter()
        .map(|link| work.clone().labour(link))
        .collect();
    while workers.join_next().await.is_some() {}
}

impl Work {
    async fn labour(self: Arc<Self>, mut link: Link) {
        let mut first = true;
        while first || Instant::now() < self.until {
            first = false;
            let Some(object) = self.next() else { return };
            let start = Instant::now();
            let done = timeout(PATIENCE, self.operate(&mut link, object))
                .await
                .map_err(|_| OperationError::Slow)
                .flatten();
            match done {
                Ok(()) => {
                    lock(&self.tally).done(start.elapsed(), object.size);
                    self.bar.inc(object.size);
                    if self.verb == Verb::Put {
                        lock(&self.stock.there).push(object.number);
                    }
                }
                Err(error) => {
                    *lock(&self.last) = Some(error);
                    if lock(&self.tally).failed() >= FAILURES {
                        return;
                    }
                    // An answer may still be under way on the old one.
                    match Link::open(&self.load.target, link.number).await {
                        Ok(again) => link = again,
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Object> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.limit {
            return None;
        }
        if self.verb == Verb::Put {
            self.stock.tried.fetch_max(number + 1, Ordering::Relaxed);
            return Some(self.stock.object(number));
        }
        let count = self.objects.len().max(1) as u64;
        let place = usize::try_from(number % count).ok()?;
        Some(self.stock.object(*self.objects.get(place)?))
    }

    async fn operate(&self, link: &mut Link, object: Object) -> Result<(), OperationError> {
        let request = self
            .load
            .target
            .request(link.number, self.verb, object, &self.load.content);
        link.sender.ready().await?;
        let response = link.sender.send_request(request).await?;
        if self.verb == Verb::Delete && response.status() == StatusCode::NOT_FOUND {
            return drain(response.into_body()).await;
        }
        let body = accepted(response).await?;
        match self.verb {
            Verb::Get | Verb::GetOne => self.read(body, object).await,
            Verb::Put | Verb::Delete => drain(body).await,
        }
    }

    async fn read(&self, mut body: Incoming, object: Object) -> Result<(), OperationError> {
        let mut check = self.load.content.check(object);
        let (mut size, mut fits) = (0, true);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            size += data.len() as u64;
            fits = fits && (!self.load.verify || check.fits(&data));
        }
        if fits && size == object.size {
            return Ok(());
        }
        let name = format!("{}/{}", object.cell, object.number);
        Err(OperationError::Wrong { name })
    }
}

/// The body of an answer that is no refusal.
async fn accepted(response: Response<Incoming>) -> Result<Incoming, OperationError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let words = Limited::new(response.into_body(), WORDS).collect().await;
    let words = words.map(|w| w.to_bytes()).unwrap_or_default();
    Err(OperationError::Refused {
        status,
        words: output::visible(&String::from_utf8_lossy(&words)),
    })
}

/// Reads to the end, so that the connection can be used again.
async fn drain(mut body: Incoming) -> Result<(), OperationError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// A connection, and the task that drives it.
struct Link {
    /// Which server, modulo their count.
    number: usize,
    sender: SendRequest<ContentBody>,
    _driver: JoinSet<()>,
}

impl Link {
    async fn open(target: &Target, number: usize) -> Result<Self, OperationError> {
        let address = target.address(number);
        let stream = TcpStream::connect(address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|reason| OperationError::Connect {
                address: address.to_owned(),
                reason,
            })?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // Whoever waits for the answer is told of a failure.
            let _ = connection.await;
        });
        Ok(Link {
            number,
            sender,
            _driver: driver,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
