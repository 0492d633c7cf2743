use bytes::Bytes;
use futures::FutureExt;
use peernet_core::key::Name;
use tokio::time::sleep;

use super::*;
use crate::files::manifest::{ChunkRef, TreeBuilder};
use crate::shares::holding::SurveyError;

fn offer() -> Offer {
    Offer {
        name: Name::new("film").unwrap(),
        size: 6,
        content: Key([7; 32]),
        content_type: String::new(),
        tags: Vec::new(),
        since: 0,
    }
}

/// Two pieces, none of which is here.
fn holding() -> Holding {
    let (mut tree, mut nodes) = (TreeBuilder::new(3), Vec::new());
    for part in ["one", "two"] {
        let key = Key::of_bytes(part.as_bytes());
        tree.push(ChunkRef { key, len: 3 }, &mut nodes);
    }
    let content = Content::Chunks(tree.finish(&mut nodes));
    let none = |_: &Key| Err::<Bytes, SurveyError>(SurveyError::TooLarge);
    let layout = Layout::of(&content, none).unwrap();
    Holding::new(layout, peernet_core::swarm::pieces::Pieces::none(2))
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_piece_waits_while_bytes_of_it_come() {
    let (holding, offer) = (holding(), offer());
    let comes = async {
        for _ in 0..8 {
            sleep(STALL * 2 / 3).await;
            holding.receive(1);
        }
        holding.add(1);
    };
    let (waited, ()) = tokio::join!(wait_for(1, &offer, &holding, None), comes);
    assert!(waited.is_ok());
    let waited = wait_for(0, &offer, &holding, None).await;
    assert!(matches!(waited, Err(ShareError::Silent { .. })));
}

#[tokio::test]
async fn one_task_brings_a_content_and_a_copy_goes_before_others() {
    let fetches = Arc::new(Fetches::default());
    let (content, tasks) = (Key([1; 32]), Arc::new(()));
    let here = Arc::new(holding());
    let start_for = |here: &Arc<Holding>, copies, ends: Option<Arc<Notify>>| {
        let (fetches, task) = (fetches.clone(), tasks.clone());
        let own = fetches.clone();
        fetches.start((content, here), copies, |errand| async move {
            let _task = task;
            match ends {
                Some(ends) => ends.notified().await,
                None => std::future::pending().await,
            }
            own.over(content, &errand);
        })
    };
    let start = |copies, ends| start_for(&here, copies, ends);
    let mut swarm = start(false, None);
    start(false, None);
    assert_eq!(fetches.lock().len(), 1);
    let ends = Arc::new(Notify::new());
    let copy = start(true, Some(ends.clone()));
    assert!(swarm.changed().await.is_err(), "the copy has its place");
    assert!(Outlook::trouble(&copy).is_none());
    // Whoever comes later finds it.
    for copies in [true, false] {
        assert!(start(copies, None).same_channel(&copy));
    }
    ends.notify_one();
    let mut ended = copy.clone();
    assert!(ended.changed().await.is_err());
    assert!(fetches.lock().is_empty());
    assert!(Outlook::trouble(&copy).is_some(), "nothing comes any more");
    // What failed before says nothing of who comes later.
    let (told, failed) = tokio::sync::oneshot::channel();
    let mut first = fetches.start((Key([2; 32]), &here), false, |errand| async move {
        let tell = |outlook: &mut Outlook| outlook.failure = Some(ChunkError::Full);
        errand.tell.send_modify(tell);
        let _ = told.send(());
        std::future::pending::<()>().await;
        drop(errand);
    });
    failed.await.unwrap();
    assert!(first.borrow_and_update().failure.is_some());
    let later = fetches.start((Key([2; 32]), &here), false, |_| std::future::pending());
    assert!(later.same_channel(&first) && later.borrow().failure.is_none());
    fetches.end(Key([2; 32]));
    assert!(first.changed().await.is_ok(), "it is told");
    assert!(first.changed().await.is_err(), "and that it has ended");
    // Given up and begun anew: what came for nobody is not waited for.
    let mut before = start(true, None);
    let anew = start_for(&Arc::new(holding()), false, None);
    assert!(!anew.same_channel(&before) && before.changed().await.is_err());
    fetches.end(content);
    while Arc::strong_count(&tasks) > 1 {
        tokio::task::yield_now().await;
    }
    assert!(copy.borrow().failure.is_none() && swarm.changed().now_or_never().is_some());
}
