//! The operator's command line.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use peernet_operator::build::NodeImage;
use peernet_operator::run::{Settings, run};
use tracing_subscriber::EnvFilter;

/// Runs PeerNetworks on Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile PeerNetworks until told to stop.
    Run(RunArgs),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

#[derive(Args)]
struct RunArgs {
    /// Image of peers whose PeerNetwork names none.
    #[arg(long, env = "PEERNET_NODE_IMAGE", default_value = concat!("peernet-node:", env!("CARGO_PKG_VERSION")))]
    node_image: String,
    /// When that image is pulled.
    #[arg(long, env = "PEERNET_NODE_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    node_image_pull_policy: String,
    /// Where /healthz and /readyz are served.
    #[arg(long, env = "PEERNET_HEALTH_LISTEN", default_value = "0.0.0.0:8081")]
    health_listen: SocketAddr,
    /// Namespace of the Lease that decides which of several operators leads.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this operator among several; unique.
    #[arg(long, env = "POD_NAME", default_value_t = format!("process-{}", std::process::id()))]
    name: String,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => {
            print!("{}", serde_yaml::to_string(&peernet_crd::definition())?);
            Ok(())
        }
        Command::Run(args) => {
            let filter =
                EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
            let colours = std::io::stderr().is_terminal();
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(colours)
                .with_writer(std::io::stderr)
                .init();
            let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
            Ok(runtime.block_on(run(args.into()))?)
        }
    }
}

impl From<RunArgs> for Settings {
    fn from(args: RunArgs) -> Self {
        let RunArgs {
            node_image,
            node_image_pull_policy,
            health_listen,
            lease_namespace,
            name,
        } = args;
        Settings {
            node_image: NodeImage {
                image: node_image,
                pull_policy: node_image_pull_policy,
            },
            health_listen,
            lease_namespace,
            me: name,
        }
    }
}
