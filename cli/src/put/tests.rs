use super::*;

fn names(
    args: &[&str],
    name: Option<&str>,
    local: &[&str],
) -> Result<Vec<(String, String)>, PutError> {
    let put = Put {
        paths: args.iter().map(PathBuf::from).collect(),
        name: name.map(str::to_owned),
        content_type: None,
        tag: Vec::new(),
        compress: None,
        if_absent: false,
    };
    let jobs = jobs(&put, |p| local.iter().any(|l| Path::new(l) == p))?;
    Ok(jobs
        .into_iter()
        .map(|j| (j.path.display().to_string(), j.name.as_str().to_owned()))
        .collect())
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(p, n)| ((*p).to_owned(), (*n).to_owned()))
        .collect()
}

#[test]
fn the_last_argument_is_the_name_unless_it_is_a_file() {
    assert_eq!(
        names(&["d/a.txt"], None, &["d/a.txt"]).unwrap(),
        pairs(&[("d/a.txt", "a.txt")])
    );
    assert_eq!(
        names(&["d/a.txt", "b"], None, &["d/a.txt"]).unwrap(),
        pairs(&[("d/a.txt", "b")])
    );
    assert_eq!(
        names(&["a", "b"], None, &["a", "b"]).unwrap(),
        pairs(&[("a", "a"), ("b", "b")])
    );
    assert_eq!(
        names(&["a", "b", "p/"], None, &["a", "b"]).unwrap(),
        pairs(&[("a", "p/a"), ("b", "p/b")])
    );
    assert_eq!(
        names(&["a"], Some("b"), &["a", "b"]).unwrap(),
        pairs(&[("a", "b")])
    );
    assert_eq!(
        names(&["-", "b"], None, &["b"]).unwrap(),
        pairs(&[("-", "b")])
    );
}

#[test]
fn what_would_be_lost_or_guessed_is_refused_as_usage() {
    let refused = [
        names(&["-"], None, &[]),
        names(&["-", "p/"], None, &[]),
        names(&["a", "b", "typo"], None, &["a", "b"]),
        names(&["x/a", "y/a"], None, &["x/a", "y/a"]),
        names(&["a", "../b"], None, &["a"]),
        names(&["/"], None, &["/"]),
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{error}");
    }
}

#[tokio::test]
async fn a_missing_file_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let job = local(dir.path().join("none"));
    assert_eq!(open(&job).await.err().unwrap().exit(), Exit::NotFound);
}

pub(super) fn local(path: PathBuf) -> Job {
    let name = Name::new("n").unwrap();
    Job { path, name }
}

/// How the reading ends from that byte on, and what was read.
async fn read_from(mut source: Source, offset: u64) -> (End, Vec<u8>) {
    source.begin_at(offset).await.unwrap();
    let (parts, mut queue) = mpsc::channel(READ_AHEAD);
    let told = (PutHeader::default(), Resumed::default());
    let (end, sender) = read(source, told, parts, ProgressBar::hidden()).await;
    drop(sender);
    let mut data = Vec::new();
    while let Some(request) = queue.recv().await {
        if let Some(Part::Data(part)) = request.part {
            data.extend_from_slice(&part);
        }
    }
    (end.unwrap(), data)
}

#[tokio::test]
async fn a_file_that_takes_the_name_of_the_one_that_is_stored_is_no_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, next) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&path, "first version").unwrap();
    let job = local(path.clone());
    let mut source = open(&job).await.unwrap();
    assert_eq!(source.size(), Some(13));
    // The beginning is hashed, as `resume::find` does it.
    assert_eq!(source.next(5).await.unwrap(), b"first");
    std::fs::write(&next, "other version, and longer").unwrap();
    std::fs::rename(&next, &path).unwrap();
    let (end, rest) = read_from(source, 5).await;
    assert_eq!(rest, b" version");
    assert_eq!(end, End::Read(8));
}

#[tokio::test]
async fn a_file_that_is_written_to_while_it_is_read_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, "first version").unwrap();
    let job = local(path.clone());
    let mut source = open(&job).await.unwrap();
    assert_eq!(source.next(5).await.unwrap(), b"first");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"other VERSION", 0).unwrap();
    // Two moments in which a file is written may be too close for its file system to tell them apart.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    file.set_modified(later).unwrap();
    assert_eq!(read_from(source, 5).await.0, End::Changed(8));
    let changed = PutError::Changed(path.clone());
    assert_eq!(changed.exit(), Exit::Retryable);

    let source = open(&job).await.unwrap();
    std::fs::write(&path, "short").unwrap();
    assert_eq!(read_from(source, 0).await.0, End::Changed(5));
}

#[tokio::test]
async fn a_file_that_is_rewritten_with_something_longer_is_not_stored() {
    const PARTS: usize = 3 * READ_AHEAD;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, vec![b'a'; PARTS * PART]).unwrap();
    let source = open(&local(path.clone())).await.unwrap();
    let (parts, mut queue) = mpsc::channel(READ_AHEAD);
    let told = (PutHeader::default(), Resumed::default());
    let reading = tokio::spawn(read(source, told, parts, ProgressBar::hidden()));
    // The header, and the first part: what is read after that is new by and by.
    for _ in 0..2 {
        queue.recv().await.unwrap();
    }
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let longer = vec![b'b'; PARTS * PART + 1];
    std::os::unix::fs::FileExt::write_all_at(&file, &longer, 0).unwrap();
    let drained = async { while queue.recv().await.is_some() {} };
    let ended = async {
        let (end, sender) = reading.await.unwrap();
        drop(sender);
        end.unwrap()
    };
    let (end, ()) = tokio::join!(ended, drained);
    assert_eq!(end, End::Changed((PARTS * PART) as u64));
}

#[tokio::test]
async fn what_is_appended_while_a_file_is_read_is_no_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "one line").unwrap();
    let source = open(&local(path.clone())).await.unwrap();
    std::fs::write(&path, "one line and another").unwrap();
    let (end, data) = read_from(source, 0).await;
    assert_eq!((end, &data[..]), (End::Read(8), &b"one line"[..]));
}

#[test]
fn a_directory_is_stored_with_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    std::fs::create_dir_all(site.join("css/old")).unwrap();
    for file in ["index.html", "css/a.css", "css/old/b.css"] {
        std::fs::write(site.join(file), file).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(&site, site.join("css/circle")).unwrap();
    let site = site.to_str().unwrap();
    let stored = |args: &[&str]| -> Vec<String> {
        let pairs = names(args, None, &[site]).unwrap();
        pairs.into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(
        stored(&[site]),
        ["site/css/a.css", "site/css/old/b.css", "site/index.html"]
    );
    assert_eq!(stored(&[site, "www"])[2], "www/index.html");
    assert_eq!(stored(&[site, "www/"])[2], "www/site/index.html");
}

#[test]
fn the_ending_of_a_name_says_what_it_is_unless_somebody_does() {
    let of = |name: &str| media_type(None, &Name::new(name.to_owned()).unwrap());
    assert_eq!(of("a/photo.JPG"), "image/jpeg");
    assert_eq!(of("notes.txt"), "text/plain");
    assert_eq!(of("a.b/c"), "application/octet-stream");
    let name = Name::new("notes.txt".to_owned()).unwrap();
    assert_eq!(media_type(Some("text/x"), &name), "text/x");
}
