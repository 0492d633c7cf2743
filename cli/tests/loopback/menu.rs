//! The menu in a real terminal, against a real network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::network::{Network, peernet};

/// A terminal of 80 columns and 24 lines that runs the menu, and then tells how the menu left it.
struct Terminal<'a> {
    network: &'a Network,
    /// tmux's own socket, so that no other tmux is touched.
    socket: String,
}

impl<'a> Terminal<'a> {
    fn open(network: &'a Network) -> Self {
        let socket = network.path("tmux").to_str().unwrap().to_owned();
        let terminal = Terminal { network, socket };
        let server = format!("PEERNET_SERVER={}", network.server(0));
        let shell = format!(
            "{} menu; code=$?; stty -a; echo left with $code; exec sleep 3600",
            env!("CARGO_BIN_EXE_peernet")
        );
        let size = ["-d", "-x", "80", "-y", "24", "-e", &server];
        terminal.tmux(&[&["new-session"], &size[..], &["sh", "-c", &shell]].concat());
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let out = Command::new("tmux")
            .args(["-S", &self.socket, "-f", "/dev/null"])
            .args(args)
            .output()
            .expect("tmux is installed (apt-get install tmux)");
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "tmux {args:?}: {words}");
        String::from_utf8(out.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Presses keys, by tmux's names for them.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a text and Enter, in place of what is proposed.
    fn answer(&self, text: &str) {
        self.press(&["C-u"]);
        self.tmux(&["send-keys", "-l", text]);
        self.press(&["Enter"]);
    }

    fn sees(&self, text: &str) {
        self.network
            .wait_for(&format!("the screen shows '{text}'"), || {
                self.screen().contains(text)
            });
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen was:\n{}", self.screen());
        }
        self.tmux(&["kill-server"]);
    }
}

/// A fetch that cannot end, because one piece of the file is not there.
struct Fetch {
    client: Child,
    piece: PathBuf,
}

impl Fetch {
    /// Of `film`, which the second peer shares, by the first.
    fn begin(network: &Network) -> Self {
        let path = network.path("film");
        let film: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(4 << 20)
            .collect();
        fs::write(&path, film).unwrap();
        let sharer = network.server(1);
        network.run(&["share", path.to_str().unwrap(), "--server", &sharer]);
        let chunks = network.run_dir().join("peer-1/shared/chunks");
        let piece = any_file_below(&chunks).expect("a chunk");
        fs::rename(&piece, piece.with_extension("away")).unwrap();
        let fetcher = network.server(0);
        let spawn = || {
            let mut client = peernet(&["fetch", "film", "-", "--everywhere", "--server", &fetcher]);
            client.stdout(Stdio::null()).stderr(Stdio::null());
            client.spawn().unwrap()
        };
        let mut client = spawn();
        // It asks all peers for a second; whoever is busy for so long is not heard.
        network.wait_for("the film is being fetched", || {
            if client.try_wait().unwrap().is_some() {
                client = spawn();
            }
            let fetched = network.run(&["shares", "--server", &fetcher]);
            fetched.contains("film")
        });
        Fetch { client, piece }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.client.kill();
        let _ = self.client.wait();
        let _ = fs::rename(self.piece.with_extension("away"), &self.piece);
    }
}

fn any_file_below(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find_map(|path| match path.is_dir() {
        true => any_file_below(&path),
        false => Some(path),
    })
}

fn a_fetch_is_given_up(network: &Network, terminal: &Terminal<'_>) {
    let fetch = Fetch::begin(network);
    terminal.press(&["5"]);
    terminal.sees("0 under way, and 1 to ");
    terminal.sees("swarm film");
    terminal.sees("[=======   ] 3.0 MiB of 4.0 MiB");
    terminal.press(&["End"]);
    terminal.press(&["c"]);
    terminal.sees("Give up fetching film");
    terminal.press(&["y"]);
    terminal.sees("ok: film is not fetched any more");
    terminal.sees("0 under way ─");
    assert!(!network.run(&["shares"]).contains("film"));
    drop(fetch);
    network.run(&["unshare", "film", "--server", &network.server(1)]);
}

/// Everything once, by keys.
pub(crate) fn everything_by_keys(network: &Network) {
    let (path, copy) = (network.path("menu.txt"), network.path("copy.txt"));
    fs::write(&path, "by keys").unwrap();
    let terminal = Terminal::open(network);
    terminal.sees("ok: ");

    terminal.press(&["p"]);
    terminal.sees("Local file to store");
    terminal.answer(path.to_str().unwrap());
    terminal.sees("Store as");
    terminal.answer("menu/a.txt");
    terminal.sees("ok: stored menu/a.txt");

    terminal.press(&["/"]);
    terminal.sees("Names that begin with");
    terminal.answer("menu/");
    terminal.sees("1 beginning with menu/");

    terminal.press(&["g"]);
    terminal.sees("Write menu/a.txt to");
    terminal.answer(copy.to_str().unwrap());
    terminal.sees("ok: wrote menu/a.txt");
    assert_eq!(fs::read_to_string(&copy).unwrap(), "by keys");
    terminal.press(&["5"]);
    terminal.sees("0 under way");

    terminal.press(&["3"]);
    terminal.sees("OK: ");
    terminal.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    terminal.sees("local-1");
    terminal.press(&["4"]);
    terminal.sees("● local-1");
    assert_eq!(
        terminal.screen().lines().count(),
        40,
        "{}",
        terminal.screen()
    );

    terminal.press(&["2"]);
    terminal.sees("menu/a.txt");
    terminal.press(&["m"]);
    terminal.sees("Rename menu/a.txt to");
    terminal.answer("menu/b.txt");
    terminal.sees("ok: renamed menu/a.txt to menu/b.txt");
    assert_eq!(network.fail(&["get", "menu/a.txt", "-"]).0, 3);
    // In the list, not only in the message.
    terminal.sees("Z   menu/b.txt");
    terminal.press(&["P"]);
    terminal.sees("ok: pinned menu/b.txt");
    terminal.sees("* menu/b.txt");
    terminal.press(&["d"]);
    terminal.press(&["y"]);
    terminal.sees("'menu/b.txt' is pinned; unpin it first");
    network.run(&["unpin", "menu/b.txt"]);
    terminal.press(&["d"]);
    terminal.sees("for good? y/n");
    terminal.press(&["y"]);
    terminal.sees("ok: removed menu/b.txt");
    assert_eq!(network.fail(&["get", "menu/b.txt", "-"]).0, 3);

    a_fetch_is_given_up(network, &terminal);

    terminal.press(&["q"]);
    terminal.sees("left with 0");
    // As it was: echoing, line by line, on its own screen.
    let left = terminal.screen();
    let settings: Vec<&str> = left.split([' ', ';', '\n']).collect();
    assert!(
        settings.contains(&"icanon") && settings.contains(&"echo"),
        "{left}"
    );
    assert_eq!(
        terminal.tmux(&["display", "-p", "#{alternate_on}"]).trim(),
        "0"
    );
}
