//! `kubectl peernet`: the same program, called by kubectl under the name `kubectl-peernet`.
//!
//! [`find`] finds the network in the current context and namespace; [`forward`] carries each connection through the API
//! server to a peer's pod, as `kubectl port-forward` does, so that all commands work as they do beside the peers, and
//! `status` reaches every one of them. [`change`] writes what the operator is to do, and waits for its answer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use thiserror::Error;

use crate::args::{Common, EXIT_CODES, Global, Shared};
use crate::exit::Exit;
use crate::kubectl::change::ChangeError;
use crate::kubectl::find::{FindError, Network};
use crate::servers::LOCAL;

mod change;
mod find;
pub(crate) mod forward;

/// Share files in a PeerNetwork of the cluster.
#[derive(Parser, Debug)]
#[command(name = "kubectl-peernet", bin_name = "kubectl peernet", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Plugin {
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: PluginCommand,
}

/// Which network, in kubectl's own words.
#[derive(clap::Args, Debug)]
struct Cluster {
    /// Name of the PeerNetwork; the only one there is by default
    #[arg(long, global = true, env = "PEERNET_NETWORK", value_name = "NAME")]
    network: Option<String>,
    /// Namespace of the PeerNetwork; the context's by default
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Look for the PeerNetwork in all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Context of the kubeconfig; the current one by default
    #[arg(long, global = true)]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum PluginCommand {
    #[command(flatten)]
    Shared(Shared),
    /// Change the number of peers, and wait until it is so
    Scale {
        /// Number of peers wanted
        peers: u32,
    },
    /// Replace a peer whose volume or node is gone for good, and wait until it began anew
    Replace {
        /// Name of the peer, such as demo-2
        peer: String,
    },
    /// Give up what only lost peers held, so that everything can be written again
    Recover {
        /// Peers to give up for good
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
        /// Say that data may be lost
        #[arg(long, required = true)]
        accept_loss: bool,
        /// Do not ask again
        #[arg(long)]
        yes: bool,
    },
}

/// Why the cluster did not do it.
#[derive(Debug, Error)]
pub enum KubectlError {
    /// There is no network to talk to.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The resource was not changed, or the change did not end well.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl KubectlError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            KubectlError::Find(e) => e.exit(),
            KubectlError::Change(e) => e.exit(),
        }
    }
}

/// Whether kubectl calls: the program's name is the plugin's.
pub fn is_called() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name)
        .file_stem()
        .is_some_and(|n| n == "kubectl-peernet")
}

/// What is to be done once the network is found.
pub(crate) enum Work {
    /// A command that talks to peers.
    Shared(Box<(Global, Shared)>),
    /// Done already, with this exit code.
    Done(ExitCode),
}

/// Finds the network, and changes it if that is what is wanted.
pub(crate) async fn prepare(plugin: Plugin) -> Result<Work, KubectlError> {
    let Plugin {
        cluster,
        common,
        command,
    } = plugin;
    if let PluginCommand::Shared(
        command @ (Shared::Completions(_) | Shared::Man(_) | Shared::Config),
    ) = command
    {
        let server = LOCAL.parse().unwrap_or_else(|never| match never {});
        return Ok(Work::Shared(Box::new((Global { server, common }, command))));
    }
    let network = Network::find(&cluster).await?;
    let done = match command {
        PluginCommand::Shared(command) => {
            let server = network.servers().await?;
            return Ok(Work::Shared(Box::new((Global { server, common }, command))));
        }
        PluginCommand::Scale { peers } => change::scale(&network, common.output, peers).await?,
        PluginCommand::Replace { peer } => change::replace(&network, common.output, &peer).await?,
        PluginCommand::Recover {
            peers,
            accept_loss: _,
            yes,
        } => change::recover(&network, common.output, &peers, yes, common.no_input).await?,
    };
    Ok(Work::Done(done))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn usage_is_printed_as_kubectl_has_it() {
        Plugin::command().debug_assert();
        let error = Plugin::try_parse_from(["/x/kubectl-peernet", "get"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("Usage: kubectl peernet get"),
            "{error}"
        );
    }

    #[test]
    fn kubectl_s_options_stand_before_or_after_the_command() {
        for line in [
            "kubectl-peernet -n prod --context c --kubeconfig k ls docs/",
            "kubectl-peernet ls docs/ -n prod --context c --kubeconfig k",
        ] {
            let plugin = Plugin::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(plugin.cluster.namespace.as_deref(), Some("prod"));
            assert_eq!(plugin.cluster.context.as_deref(), Some("c"));
        }
        for wrong in [
            "kubectl-peernet -n a -A ls",
            "kubectl-peernet up",
            "kubectl-peernet recover demo-1",
        ] {
            assert!(Plugin::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
