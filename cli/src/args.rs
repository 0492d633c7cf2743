//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use peernet_node::config::Compression;

use crate::output::Format;
use crate::search::Search;
use crate::servers::Servers;

/// Share files in a network of equal peers.
#[derive(Parser, Debug)]
#[command(name = "peernet", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Args {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done, 2 wrong usage, 3 not found, 5 failed but may succeed when tried again, \
                          6 failed and will again until something is changed, 7 a fault of PeerNet, 130 ended by \
                          ctrl-C, while what it waited for goes on.";

/// Options of every command.
#[derive(clap::Args, Debug)]
pub struct Global {
    /// Peers to talk to, comma-separated, tried in turn
    #[arg(
        long,
        global = true,
        env = "PEERNET_SERVER",
        default_value = crate::servers::LOCAL,
        value_name = "URL,..."
    )]
    pub server: Servers,
    /// What does not depend on whom it talks to.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command, of `kubectl peernet` too.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// How to print the result
    #[arg(short, long, global = true, env = "PEERNET_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Never ask: fail where an answer would be needed
    #[arg(long, global = true, env = "PEERNET_NO_INPUT")]
    pub no_input: bool,
    /// File of settings, each under its option's name; the environment and options win over it [default:
    /// $XDG_CONFIG_HOME/peernet/config.yaml or ~/.config/peernet/config.yaml, if it is there]
    #[arg(long, global = true, env = "PEERNET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start peers on this machine, without Kubernetes, and keep them running until ctrl-C
    Up(Up),
    /// What a peer anywhere can be asked for.
    #[command(flatten)]
    Shared(Shared),
    /// Change the number of peers of a running `peernet up`
    Scale(Scale),
    /// Replace a peer of a running `peernet up` whose volume is gone for good
    Replace(Replace),
    /// Give up what only lost peers held, so that everything can be written again
    Recover(Recover),
    /// Measure how fast files go in and out, with made-up ones that are removed again
    Bench(Box<crate::bench::Bench>),
    /// Run one peer in the foreground
    #[command(hide = true)]
    Peer(Box<Peer>),
}

/// The commands that `kubectl peernet` has too.
#[derive(Subcommand, Debug)]
pub enum Shared {
    /// Store files
    Put(Put),
    /// Fetch a file
    Get(Get),
    /// List files
    Ls(Ls),
    /// Find files by words in their names, tags and content types: stored ones, or with --shared shared ones
    Search(Search),
    /// Remove files
    Rm(Rm),
    /// Keep files from being replaced, renamed and removed
    Pin(Pin),
    /// Take that back
    Unpin(Unpin),
    /// Give a file another name
    #[command(alias = "rename")]
    Mv(Mv),
    /// List peers as the asked peer knows them
    Peers,
    /// Show the ring clockwise: how much of it each peer has, its neighbours, and whether they agree
    ///
    /// Uneven arcs are no fault: peers of different zones stand side by side on purpose. What each of them holds is what
    /// `peernet status` says.
    Ring,
    /// Say how the network is, asking every peer that can be reached
    Status(Status),
    /// Show which peers hold each part of a file
    Explain(Explain),
    /// Shared files, and who is there.
    #[command(flatten)]
    Sharing(crate::share::Sharing),
    /// Do it all on a full screen, with keys
    Menu,
    /// Print the settings in force, and where each comes from
    Config,
    /// Print what teaches a shell to complete this command
    Completions(Completions),
    /// Write the man pages into a directory
    Man(Man),
}

/// Stores files. The last of several arguments is the name to store under, unless it is a local file too. One that was broken
/// off goes on where it was when the same command is given within an hour.
#[derive(clap::Args, Debug)]
pub struct Put {
    /// Local files and directories, or - for standard input; then the name, if the last one is no local file. A name that ends with /
    /// is a prefix to the files' own names
    #[arg(required = true, value_name = "PATH... [NAME]")]
    pub paths: Vec<PathBuf>,
    /// Name to store under (or prefix, when it ends with /); all other arguments are then paths
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Media type to keep with the file [default: what the ending of its name says]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Tag to find the file by; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Have its chunks compressed where they are stored and on the way there: auto (the default of the flag), where it pays,
    /// or never. What is read is the same [default: as the network says]
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "auto"
    )]
    pub compress: Option<Compression>,
    /// Fail rather than replace a file that is there
    #[arg(long)]
    pub if_absent: bool,
}

/// Fetches each file whole, or leaves nothing of it.
#[derive(clap::Args, Debug)]
pub struct Get {
    /// Name in the network; one that ends with / stands for all that begin so
    pub name: String,
    /// Take the name as a pattern, of all files to fetch into a directory: * and ? stand for anything but /, ** for that too,
    /// [a-c] and {a,b} for one of several
    #[arg(long)]
    pub glob: bool,
    /// Where to write it: a file, a directory, or - for standard output; the name's last segment by default
    pub path: Option<PathBuf>,
}

/// Lists files.
#[derive(clap::Args, Debug)]
pub struct Ls {
    /// Only names that start so
    #[arg(default_value = "")]
    pub prefix: String,
    /// Take it as a pattern of whole names: * and ? stand for anything but /, ** for that too, [a-c] and {a,b} for one of several
    #[arg(long, requires = "prefix")]
    pub glob: bool,
}

/// One or more files.
#[derive(clap::Args, Debug)]
pub struct Names {
    /// Names in the network
    #[arg(required = true)]
    pub name: Vec<String>,
    /// Take them as patterns: * and ? stand for anything but /, ** for that too, [a-c] and {a,b} for one of several
    #[arg(long)]
    pub glob: bool,
}

/// Removes files.
#[derive(clap::Args, Debug)]
pub struct Rm {
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Keeps files from being replaced, renamed and removed, by whomever, until they are unpinned. Nothing else of them is changed.
#[derive(clap::Args, Debug)]
pub struct Pin {
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Lets files be replaced, renamed and removed again.
#[derive(clap::Args, Debug)]
pub struct Unpin {
    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// Gives a file another name, which has to be free. No bytes move. It is not atomic: both names lead to the file for a moment,
/// and still do when the second step fails; the same command then finishes it.
#[derive(clap::Args, Debug)]
pub struct Mv {
    /// Name in the network
    pub old: String,
    /// Name to be; one that ends with / is a prefix to the last segment of the old one
    pub new: String,
}

/// Shows the state of the network.
#[derive(clap::Args, Debug)]
pub struct Status {
    /// Exit with 5 when the network is degraded
    #[arg(long)]
    pub check: bool,
}

/// Shows who holds a file.
#[derive(clap::Args, Debug)]
pub struct Explain {
    /// Name in the network
    pub name: String,
}

/// Runs peers on this machine.
#[derive(clap::Args, Debug)]
pub struct Up {
    /// PeerNetwork manifest, the same as for Kubernetes; a built-in one by default
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Number of peers; overrides the manifest, and what an earlier run in the same directory ended with
    #[arg(long, value_name = "N")]
    pub peers: Option<u32>,
    /// Peer i serves REST on this port + i [default: 8080]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
    /// Peer i serves gRPC on this port + i [default: 7000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub grpc_port: Option<u16>,
    /// Where volumes, logs and the network's state are kept [default: $XDG_STATE_HOME/peernet/NAME, or
    /// ~/.local/state/peernet/NAME]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Number of zones the peers are spread over [default: 3]
    #[arg(long, value_name = "Z", value_parser = clap::value_parser!(u32).range(1..))]
    pub zones: Option<u32>,
}

/// Changes the number of peers.
#[derive(clap::Args, Debug)]
pub struct Scale {
    /// Number of peers wanted
    pub peers: u32,
    /// Directory of the running `peernet up` [default: the one that runs]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Replaces a peer: its identity is retired, its volume is removed once nothing depends on it, and it begins anew.
#[derive(clap::Args, Debug)]
pub struct Replace {
    /// Name of the peer, such as demo-2
    #[arg(value_name = "PEER")]
    pub peer: String,
    /// Directory of the running `peernet up` [default: the one that runs]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Ends a loss of majorities: the copies that are left take over, and what only the given-up peers held is lost.
#[derive(clap::Args, Debug)]
pub struct Recover {
    /// Peers to give up for good; all that are down and hold what cannot be written by default
    #[arg(value_name = "PEER")]
    pub peers: Vec<String>,
    /// Say that data may be lost
    #[arg(long, required = true)]
    pub accept_loss: bool,
    /// Do not ask again
    #[arg(long)]
    pub yes: bool,
    /// Directory of the running `peernet up` [default: the one that runs]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Prints completions.
#[derive(clap::Args, Debug)]
#[command(after_help = COMPLETIONS)]
pub struct Completions {
    /// Which shell
    pub shell: clap_complete::Shell,
}

const COMPLETIONS: &str =
    "For bash: peernet completions bash >~/.local/share/bash-completion/completions/peernet";

/// Writes man pages.
#[derive(clap::Args, Debug)]
pub struct Man {
    /// Where to, such as ~/.local/share/man/man1; made if it is missing
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs one peer.
#[derive(clap::Args, Debug)]
pub struct Peer {
    /// The daemon's own flags.
    #[command(flatten)]
    pub config: peernet_node::Config,
    /// End when standard input ends, and hold the lock beside the volume
    #[arg(long, hide = true)]
    pub under_runner: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let args = parse("peernet ls docs/ -o json --server 10.0.0.1:7000,10.0.0.2:7000").unwrap();
        assert_eq!(args.global.common.output, Format::Json);
        assert_eq!(args.global.server.count(), 2);
        assert!(
            matches!(args.command, Command::Shared(Shared::Ls(Ls { prefix, .. })) if prefix == "docs/")
        );
    }

    #[test]
    fn standard_input_and_output_are_a_dash() {
        assert!(
            matches!(parse("peernet put - log.txt").unwrap().command, Command::Shared(Shared::Put(p)) if p.paths.len() == 2)
        );
        assert!(
            matches!(parse("peernet get log.txt -").unwrap().command, Command::Shared(Shared::Get(g)) if g.path == Some("-".into()))
        );
    }

    #[test]
    fn compress_alone_means_where_it_pays_and_takes_no_path() {
        let told = |line| match parse(line).unwrap().command {
            Command::Shared(Shared::Put(put)) => (put.compress, put.paths.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(told("peernet put a"), (None, 1));
        let auto = Some(Compression::Auto);
        assert_eq!(told("peernet put --compress a"), (auto, 1));
        assert_eq!(
            told("peernet put --compress=never a"),
            (Some(Compression::Never), 1)
        );
    }

    #[test]
    fn wrong_usage_exits_with_two() {
        for line in [
            "peernet put",
            "peernet rm",
            "peernet pin",
            "peernet mv a",
            "peernet scale x",
            "peernet up --zones 0",
            "peernet up --grpc-port 0",
            "peernet up --http-port 0",
            "peernet ls -o xml",
            "peernet ls --glob",
            "peernet replace",
            "peernet recover --yes",
            "peernet put --compress=hard a",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
