//! Searching the keyword index: the roots of all words' lists at once, then the leaves of the rarest word's. See
//! [`crate::index`].

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Step, Task};
use super::names::Client;
use super::{Done, Peer};
use crate::config::Labels;
use crate::index::{Leaf, Node, Path, terms};
use crate::io::{Answer, IndexCost, RequestError, RequestId, Search};
use crate::key::Key;
use crate::member::PeerId;
use crate::message::{Listed, Outcome};
use crate::store::Store;

/// Most results in a page.
const PAGE_MAX: u32 = 1_000;
/// Most nodes read for a page, the words' roots aside; then it ends early, with a cursor. Guess: a second's work.
const NODES: u32 = 64;
/// Searches under way at once on one peer (guess; each may hold [`NODES`] times nothing but its hits).
const SEARCHES: usize = 256;

/// A search under way.
pub(super) struct Query {
    pub(super) request: RequestId,
    search: Search,
    /// Roots that were read, by term.
    roots: BTreeMap<String, Node>,
    /// Terms whose roots are to be read.
    open: Vec<String>,
    /// The term that is looked up, once the rarest is known.
    rarest: Option<String>,
    /// Nodes to be read, the next one last.
    walk: Vec<Path>,
    reading: Option<(String, Path)>,
    hits: BTreeMap<Key, Listed>,
    /// All names up to this key were looked at.
    seen: Option<Key>,
    peers: BTreeSet<PeerId>,
    messages: u32,
    nodes: u32,
}

impl<S: Store> Peer<S> {
    pub(super) fn start_find(&mut self, request: RequestId, mut search: Search) -> Done {
        search.limit = search.limit.clamp(1, PAGE_MAX);
        let queries = self.index.tasks.values();
        let queries = queries.filter(|t| matches!(t, Task::Query(_))).count();
        if search.terms.is_empty() || queries >= SEARCHES {
            let error = if search.terms.is_empty() {
                RequestError::NothingToSearch
            } else {
                RequestError::Busy
            };
            self.answer(request, Answer::Failed(error));
            return Ok(());
        }
        let open = search.terms.iter().cloned().collect();
        self.search_on(Query {
            request,
            search,
            roots: BTreeMap::new(),
            open,
            rarest: None,
            walk: Vec::new(),
            reading: None,
            hits: BTreeMap::new(),
            seen: None,
            peers: BTreeSet::new(),
            messages: 0,
            nodes: 0,
        })
    }

    /// Reads the next node, or answers.
    fn search_on(&mut self, mut query: Query) -> Done {
        if let Some(term) = query.open.pop() {
            let root = Path::root(&term);
            return self.read_node(query, term, root);
        }
        if query.rarest.is_none() && !query.begin_walk(self.settings.labels) {
            self.finish_search(query, None);
            return Ok(());
        }
        while let Some(path) = query.walk.pop() {
            if query.search.after.is_some_and(|after| path.last() <= after) {
                continue;
            }
            // Without a cursor it would look like the end.
            let walked = query.nodes.saturating_sub(query.search.terms.len() as u32);
            let full = query.hits.len() >= query.search.limit as usize || walked >= NODES;
            if full && query.seen.is_some() {
                let seen = query.seen;
                self.finish_search(query, seen);
                return Ok(());
            }
            let term = query.rarest.clone().unwrap_or_default();
            query.walk.push(path.clone());
            return self.read_node(query, term, path);
        }
        self.finish_search(query, None);
        Ok(())
    }

    fn read_node(&mut self, mut query: Query, term: String, path: Path) -> Done {
        let name = path.register();
        query.reading = Some((term, path));
        query.nodes += 1;
        let task = self.fresh_op();
        self.index.tasks.insert(task, Task::Query(query));
        self.start_internal(Client::Index(task), name, None)
    }

    pub(super) fn on_query_step(&mut self, mut query: Query, step: Step) -> Done {
        query.messages += step.messages;
        query.peers.extend(step.peers);
        let register = match step.outcome {
            Ok(Outcome::Found(register)) => register,
            Ok(_) => return Ok(()),
            Err(error) => {
                self.answer(query.request, Answer::Failed(error));
                return Ok(());
            }
        };
        let node = Node::of(register.as_ref());
        if let Some((term, path)) = query.reading.take() {
            if query.rarest.is_none() {
                query.roots.insert(term, node);
            } else {
                query.walk.pop();
                if matches!(node, Node::Leaf(_)) {
                    query.seen = Some(path.last());
                }
                query.visit(&path, node, self.settings.labels);
            }
        }
        self.search_on(query)
    }

    /// `seen`: all below that key was looked at, and there may be more.
    fn finish_search(&mut self, query: Query, seen: Option<Key>) {
        let limit = query.search.limit as usize;
        let cut = query.hits.len() > limit;
        let hits = query.hits.into_iter().take(limit);
        let (keys, items): (Vec<Key>, Vec<Listed>) = hits.unzip();
        let next = if cut { keys.last().copied() } else { seen };
        let cost = IndexCost {
            peers: query.peers.len() as u32,
            messages: query.messages,
            shards: query.nodes,
        };
        self.answer(query.request, Answer::Matches { items, next, cost });
    }
}

impl Query {
    /// All roots are known: which list to walk. False when there can be no result.
    fn begin_walk(&mut self, labels: Labels) -> bool {
        let weight = |node: &Node| match node {
            Node::Leaf(leaf) => leaf.len(),
            Node::Split(_) => usize::MAX,
        };
        let rarest = self.roots.iter().min_by_key(|(_, node)| weight(node));
        let Some((term, node)) = rarest.map(|(t, n)| (t.clone(), n.clone())) else {
            return false;
        };
        let root = Path::root(&term);
        self.rarest = Some(term);
        self.visit(&root, node, labels);
        true
    }

    fn visit(&mut self, path: &Path, node: Node, labels: Labels) {
        match node {
            Node::Leaf(leaf) => self.collect(&leaf, labels),
            Node::Split(split) => {
                let children = path.children(split).into_iter().flatten();
                self.walk.extend(children.rev());
            }
        }
    }

    fn collect(&mut self, leaf: &Leaf, labels: Labels) {
        for posting in leaf.postings() {
            let key = Key::of_name(&posting.name);
            let Some(head) = posting
                .head
                .filter(|_| self.search.after.is_none_or(|a| key > a))
            else {
                continue;
            };
            let found = terms(&posting.name, &head.bytes, labels);
            let prefix = self.search.prefix.as_ref();
            let begins = prefix.is_none_or(|p| found.iter().any(|t| t.starts_with(p.as_str())));
            if begins && self.search.terms.is_subset(&found) {
                let listed = Listed {
                    name: posting.name,
                    version: posting.version,
                    head: Some(head),
                };
                self.hits.insert(key, listed);
            }
        }
    }
}
