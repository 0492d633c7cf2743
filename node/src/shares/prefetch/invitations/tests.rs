use std::collections::BTreeSet;

use peernet_core::key::Position;
use peernet_core::member::Drain;

use super::*;

const CONTENT: Key = Key([7; 32]);

fn members(ids: &[u128]) -> Vec<Member> {
    let member = |id: &u128| Member {
        id: PeerId(*id),
        name: format!("p-{id}"),
        address: String::new(),
        http: String::new(),
        zone: String::new(),
        position: Position(0),
        incarnation: 1,
        liveness: Liveness::Active,
        drain: Drain::default(),
        version: String::new(),
    };
    ids.iter().map(member).collect()
}

/// How often each was asked, and what it answers.
#[derive(Clone, Default)]
struct Asked {
    counts: Arc<Mutex<BTreeMap<PeerId, u32>>>,
    /// The first questions that come to nothing.
    early: u32,
}

impl Asked {
    fn ask(&self) -> impl Fn(PeerId) -> std::future::Ready<Result<u64, String>> + use<> {
        let asked = self.clone();
        move |id| {
            let mut counts = asked.counts.lock().unwrap();
            let count = counts.entry(id).or_insert(0);
            *count += 1;
            std::future::ready(match *count <= asked.early {
                true => Err("nobody has it".into()),
                false => Ok(9),
            })
        }
    }

    fn counts(&self) -> Vec<u32> {
        self.counts.lock().unwrap().values().copied().collect()
    }
}

async fn over(invitations: &Invitations) {
    while !invitations.lock().is_empty() {
        sleep(LOOK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_asked_until_it_has_begun_though_nobody_listens() {
    let (invitations, asked) = (
        Arc::new(Invitations::default()),
        Asked {
            early: 3,
            ..Asked::default()
        },
    );
    let told = invitations.invite(CONTENT, 9, &members(&[1, 2, 3]), asked.ask());
    drop(told.unwrap());
    over(&invitations).await;
    assert_eq!(asked.counts(), [4, 4, 4], "no more than it takes");
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_starts_nothing_twice_and_may_add_some() {
    let (invitations, asked) = (Arc::new(Invitations::default()), Asked::default());
    let invite = |ids: &[u128]| {
        let told = invitations.invite(CONTENT, 9, &members(ids), asked.ask());
        told.unwrap()
    };
    let mut first = invite(&[1]);
    first.changed().await.unwrap();
    let second = invite(&[1, 2]);
    assert!(second.same_channel(&first));
    drop(first);
    while asked.counts().len() < 2 {
        sleep(LOOK).await;
    }
    assert_eq!(invitations.lock().len(), 1);
    // Who listens is told until it hangs up.
    let before = asked.counts()[0];
    sleep(LOOK * 3).await;
    assert!(asked.counts()[0] > before);
    drop(second);
    over(&invitations).await;
    // It is ended with the content, which is told.
    let mut told = invite(&[3]);
    invitations.end(CONTENT);
    while told.changed().await.is_ok() {}
    assert!(invitations.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_never_begins_has_failed_after_a_while_and_there_are_so_many_at_once() {
    let (invitations, asked) = (
        Arc::new(Invitations::default()),
        Asked {
            early: u32::MAX,
            ..Asked::default()
        },
    );
    let told = invitations.invite(CONTENT, 9, &members(&[1]), asked.ask());
    let told = told.unwrap();
    over(&invitations).await;
    let failure = told.borrow()[&PeerId(1)].failure.clone();
    assert_eq!(failure.as_deref(), Some("nobody has it"));
    let invite = |n: usize| {
        let content = Key([n as u8; 32]);
        invitations.invite(content, 9, &members(&[1]), asked.ask())
    };
    for n in 0..INVITATIONS {
        invite(n).unwrap();
    }
    let refused = invite(INVITATIONS).unwrap_err();
    assert!(matches!(refused, ShareError::Busy), "{refused}");
    assert!(invite(0).is_ok(), "one that is under way");
}

#[test]
fn the_same_ones_are_chosen_each_time() {
    let all: Vec<u128> = (0..20).collect();
    let chosen = |members: Vec<Member>, content, count| -> Vec<PeerId> {
        let chosen = choose(members, content, count);
        chosen.into_iter().map(|m| m.id).collect()
    };
    let few = chosen(members(&all), CONTENT, 3);
    let mut others = members(&all);
    others.reverse();
    others.retain(|m| few.contains(&m.id) || m.id.0 % 2 == 0);
    assert_eq!(chosen(others.clone(), CONTENT, 3), few);
    assert_eq!(chosen(others.clone(), CONTENT, 4)[..3], few);
    // Who does not answer comes last.
    for member in &mut others {
        if member.id == few[0] {
            member.liveness = Liveness::Suspect;
        }
    }
    assert_eq!(chosen(others.clone(), CONTENT, 2), few[1..]);
    // Contents are spread.
    let firsts = (0..50).map(|n| chosen(members(&all), Key([n; 32]), 1)[0]);
    assert!(firsts.collect::<BTreeSet<_>>().len() > 10);
}
