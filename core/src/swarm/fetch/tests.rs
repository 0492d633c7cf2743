use super::*;

fn pieces(total: u32, some: &[u32]) -> Pieces {
    let mut pieces = Pieces::none(total);
    some.iter().for_each(|piece| {
        pieces.insert(*piece);
    });
    pieces
}

fn peer(n: u128) -> PeerId {
    PeerId(n)
}

/// The asks put to that source.
fn asks(requests: &[Request], to: u128) -> Vec<AskId> {
    let ask = |r: &Request| match r {
        Request::Ask(ask, source) if *source == peer(to) => Some(*ask),
        _ => None,
    };
    requests.iter().filter_map(ask).collect()
}

/// What is named when its turn comes.
fn named(fetch: &mut Fetch, ask: AskId, now: Time) -> Vec<u32> {
    let requests = fetch.handle(Event::Turn(ask), now);
    let want = |r: &Request| match r {
        Request::Want(id, pieces) if *id == ask => Some(pieces.clone()),
        _ => None,
    };
    requests.iter().find_map(want).unwrap_or_default()
}

/// Its turn comes, and the first piece named with it.
fn begins(fetch: &mut Fetch, ask: AskId, now: Time) -> u32 {
    let piece = named(fetch, ask, now)[0];
    fetch.handle(Event::Comes(ask, piece), now);
    piece
}

#[test]
fn what_few_have_is_named_first() {
    let mut fetch = Fetch::new(Pieces::none(64), 1);
    fetch.handle(
        Event::Has(peer(2), pieces(64, &(0..60).collect::<Vec<_>>())),
        Time(0),
    );
    fetch.handle(
        Event::Has(peer(3), pieces(64, &(0..62).collect::<Vec<_>>())),
        Time(0),
    );
    let requests = fetch.handle(Event::Has(peer(1), Pieces::all(64)), Time(0));
    let mut first = named(&mut fetch, asks(&requests, 1)[0], Time(0));
    first.truncate(4);
    let (mut two, mut one) = (first.split_off(2), first);
    one.sort_unstable();
    two.sort_unstable();
    assert_eq!((one, two), (vec![62, 63], vec![60, 61]));
}

#[test]
fn equals_are_chosen_at_random() {
    let firsts: BTreeSet<u32> = (0..20)
        .map(|seed| {
            let mut fetch = Fetch::new(Pieces::none(64), seed);
            let requests = fetch.handle(Event::Has(peer(1), Pieces::all(64)), Time(0));
            named(&mut fetch, asks(&requests, 1)[0], Time(0))[0]
        })
        .collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[test]
fn nothing_is_taken_twice_before_the_end_game_and_then_little() {
    let mut fetch = Fetch::new(pieces(40, &(0..36).collect::<Vec<_>>()), 1);
    let one = fetch.handle(Event::Has(peer(1), Pieces::all(40)), Time(0));
    let two = fetch.handle(Event::Has(peer(2), Pieces::all(40)), Time(0));
    let (one, two) = (asks(&one, 1), asks(&two, 2));
    assert_eq!(one.len(), PER_SOURCE);
    let moving: BTreeSet<u32> = one
        .iter()
        .zip(1..)
        .map(|(ask, at)| begins(&mut fetch, *ask, Time(at)))
        .collect();
    assert_eq!(moving.len(), 4, "each another one");
    // Two of forty may be asked of a second source: those on their way for longest.
    let second: Vec<Vec<u32>> = two
        .iter()
        .map(|ask| named(&mut fetch, *ask, Time(9)))
        .collect();
    let taken: Vec<u32> = second.iter().flatten().copied().collect();
    assert_eq!(taken.len(), 2, "{second:?}");
    let ask = two[0];
    fetch.handle(Event::Comes(ask, taken[0]), Time(10));
    let requests = fetch.handle(Event::Got(ask), Time(11));
    let cut: Vec<&Request> = requests
        .iter()
        .filter(|r| matches!(r, Request::Cancel(_)))
        .collect();
    assert_eq!(
        cut,
        [&Request::Cancel(one[0])],
        "the first source is cut off"
    );
    assert!(fetch.here().has(taken[0]));
    // Whatever still comes of it counts for nothing.
    fetch.handle(Event::Got(one[0]), Time(12));
    fetch.handle(Event::Wrong(one[0]), Time(12));
    assert_eq!(fetch.here().count(), 37);
    assert!(!fetch.welcomes(peer(1)) && fetch.welcomes(peer(3)));
}

#[test]
fn a_turn_for_which_nothing_is_left_is_given_back_and_not_asked_for_again() {
    let mut fetch = Fetch::new(Pieces::none(1), 1);
    let one = fetch.handle(Event::Has(peer(1), Pieces::all(1)), Time(0));
    let two = fetch.handle(Event::Has(peer(2), Pieces::all(1)), Time(0));
    assert!(two.is_empty(), "one turn for one piece: {two:?}");
    let ask = asks(&one, 1)[0];
    begins(&mut fetch, ask, Time(1));
    assert_eq!(fetch.handle(Event::Tick, Time(500)), []);
    // It fails, and the other is asked, as the first one rests.
    let next = fetch.handle(Event::Failed(ask), Time(600));
    let ask = asks(&next, 2)[0];
    assert_eq!(next.len(), 1);
    begins(&mut fetch, ask, Time(601));
    fetch.handle(Event::Got(ask), Time(602));
    assert!(fetch.here().is_full());
}

#[test]
fn who_lies_is_left_for_good_and_what_it_was_to_bring_comes_from_others() {
    let mut fetch = Fetch::new(Pieces::none(4), 1);
    let one = asks(
        &fetch.handle(Event::Has(peer(1), Pieces::all(4)), Time(0)),
        1,
    );
    fetch.handle(Event::Has(peer(2), Pieces::all(4)), Time(0));
    begins(&mut fetch, one[0], Time(1));
    begins(&mut fetch, one[1], Time(1));
    let requests = fetch.handle(Event::Wrong(one[0]), Time(2));
    assert!(requests.contains(&Request::Leave(peer(1))));
    assert!(requests.contains(&Request::Cancel(one[1])));
    assert_eq!(asks(&requests, 2).len(), PER_SOURCE);
    assert!(!fetch.welcomes(peer(1)));
    let again = fetch.handle(Event::Has(peer(1), Pieces::all(4)), Time(3));
    assert!(asks(&again, 1).is_empty());
    // Neither is one that sends what was not asked for.
    let ask = asks(&requests, 2)[0];
    named(&mut fetch, ask, Time(4));
    fetch.handle(Event::Comes(ask, 77), Time(4));
    assert!(!fetch.welcomes(peer(2)) && !fetch.is_hopeful());
}

#[test]
fn who_fails_rests_longer_each_time_and_is_left_in_the_end() {
    let mut fetch = Fetch::new(Pieces::none(1), 1);
    let mut requests = fetch.handle(Event::Has(peer(1), Pieces::all(1)), Time(0));
    let mut now = Time(0);
    for strike in 0..STRIKES {
        let ask = asks(&requests, 1)[0];
        requests = fetch.handle(Event::Failed(ask), now);
        if strike + 1 == STRIKES {
            break;
        }
        assert_eq!(requests, [], "it rests");
        let rest = REST << strike;
        assert_eq!(fetch.handle(Event::Tick, now.after(rest - 1)), []);
        now = now.after(rest);
        requests = fetch.handle(Event::Tick, now);
    }
    assert_eq!(requests, [Request::Leave(peer(1))]);
    assert!(fetch.welcomes(peer(1)), "it may be found again");
}

#[test]
fn who_has_too_many_waiting_is_asked_again_later() {
    let mut fetch = Fetch::new(Pieces::none(1), 1);
    let requests = fetch.handle(Event::Has(peer(1), Pieces::all(1)), Time(0));
    let ask = asks(&requests, 1)[0];
    assert_eq!(fetch.handle(Event::ComeBack(ask, 500), Time(0)), []);
    let again = fetch.handle(Event::Tick, Time(500));
    assert_eq!(asks(&again, 1).len(), 1);
}

#[test]
fn a_slow_source_is_passed_over_if_there_is_another() {
    let mut fetch = Fetch::new(Pieces::none(100), 1);
    let one = asks(
        &fetch.handle(Event::Has(peer(1), Pieces::all(100)), Time(0)),
        1,
    );
    begins(&mut fetch, one[0], Time(0));
    begins(&mut fetch, one[1], Time(0));
    fetch.handle(Event::Got(one[0]), Time(1_000));
    assert_eq!(
        fetch.handle(Event::Tick, Time(9_000)),
        [],
        "there is no other"
    );
    let two = fetch.handle(Event::Has(peer(2), Pieces::all(100)), Time(9_000));
    assert!(!asks(&two, 2).is_empty());
    let passed = fetch.handle(Event::Tick, Time(9_001));
    assert!(passed.contains(&Request::Cancel(one[1])));
    // From now on the other one is asked as long as it may be.
    let others = asks(&passed, 2).len() + asks(&two, 2).len();
    assert_eq!(others, PER_SOURCE);
}

#[test]
fn asks_sources_and_pieces_under_way_are_bounded() {
    let mut fetch = Fetch::new(Pieces::none(1_000), 1);
    let mut open = Vec::new();
    for n in 0..100 {
        let requests = fetch.handle(Event::Has(peer(n), Pieces::all(1_000)), Time(0));
        open.extend(asks(&requests, n));
    }
    assert_eq!(open.len(), ASKS);
    assert!(!fetch.welcomes(peer(500)));
    let came = open
        .iter()
        .filter(|ask| !named(&mut fetch, **ask, Time(1)).is_empty());
    assert_eq!(came.count(), MOVING);
}
