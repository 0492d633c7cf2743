//! Running a model and saying what came of it.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// How a model tells a counterexample.
pub trait Tell: Model {
    /// A step, from this state.
    fn tell(&self, state: &Self::State, action: &Self::Action) -> String;
    /// The last state.
    fn tell_end(&self, state: &Self::State) -> String;
}

/// The shortest way into a state that violates a property.
pub struct Counterexample {
    /// The property.
    pub property: &'static str,
    /// The steps that lead there.
    pub steps: Vec<String>,
    /// The state that violates it.
    pub end: String,
}

/// What a check found.
pub struct Outcome {
    /// Different states that were reached.
    pub states: usize,
    /// A violated property, if any.
    pub counterexample: Option<Counterexample>,
}

/// Checks every reachable state, breadth first, until a property is violated, and prints a row for docs/proofs.md and
/// the shortest counterexample.
pub fn explore<M>(title: &str, model: M) -> Outcome
where
    M: Tell + Clone + Send + Sync + 'static,
    M::State: Debug + Clone + PartialEq + Hash + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let begin = Instant::now();
    let mut outcome = search(model.clone(), usize::MAX);
    let (states, seconds) = (outcome.states, begin.elapsed().as_secs_f64());
    // The checker works in blocks and keeps the last violation of a block: look for one nearer to the start.
    while let Some(found) = &outcome.counterexample {
        let nearer = search(model.clone(), found.steps.len());
        if nearer.counterexample.is_none() {
            break;
        }
        outcome.counterexample = nearer.counterexample;
    }
    match &outcome.counterexample {
        None => println!("| {title} | {states} | {seconds:.1} s | holds |"),
        Some(c) => {
            let (property, steps) = (c.property, c.steps.len());
            println!(
                "| {title} | {states} | {seconds:.1} s | not \"{property}\" after {steps} steps |"
            );
            c.steps.iter().for_each(|step| println!("    {step}"));
            println!("    = {}", c.end);
        }
    }
    outcome
}

/// Looks for a violation after fewer than `steps` steps.
fn search<M>(model: M, steps: usize) -> Outcome
where
    M: Tell + Send + Sync + 'static,
    M::State: Debug + Clone + PartialEq + Hash + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let checker = model
        .checker()
        // The checker counts states on the way, not steps between them.
        .target_max_depth(steps.saturating_add(1))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    // Of several violated properties the first by name: the run is the same each time.
    let found = checker.discoveries().into_iter().min_by_key(|(p, _)| *p);
    let counterexample = found.map(|(property, path)| {
        let end = checker.model().tell_end(path.last_state());
        let told = |(state, action): (M::State, Option<M::Action>)| {
            Some(checker.model().tell(&state, &action?))
        };
        let steps = path.into_vec().into_iter().filter_map(told).collect();
        Counterexample {
            property,
            steps,
            end,
        }
    });
    Outcome {
        states: checker.unique_state_count(),
        counterexample,
    }
}
