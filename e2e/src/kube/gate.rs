//! The host's way to a cluster's API server: a loopback port of the host, forwarded into the cluster's namespace.
//!
//! It is the only link between the two, and it leads to one address. Nothing in the lab can use it to get out.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::lab::netns::enter_by_path;

#[derive(Debug, clap::Args)]
pub struct Gate {
    /// The namespace in which to listen; the process is started in the one to which it leads.
    #[arg(long)]
    listen_in: PathBuf,
    /// The address to dial.
    #[arg(long)]
    to: SocketAddr,
    /// Where to write the address at which it listens.
    #[arg(long)]
    say: PathBuf,
}

impl Gate {
    /// Forwards until it is killed.
    pub fn run(self) -> Result<()> {
        let own = fs::canonicalize("/proc/self").context("finding the own process")?.join("ns/net");
        // The file keeps the namespace within reach while the thread is in the other one.
        let back = fs::File::open(&own).context("opening the own namespace")?;
        enter_by_path(&self.listen_in)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&back);
        enter_by_path(Path::new(&format!("/proc/self/fd/{descriptor}")))?;
        listener.set_nonblocking(true).context("setting up the listener")?;
        say(&self.say, listener.local_addr().context("asking for the port")?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("starting a runtime")?.block_on(forward(listener, self.to))
    }
}

/// By rename: whoever finds the file finds all of it.
fn say(path: &Path, address: SocketAddr) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, address.to_string()).with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("writing {}", path.display()))
}

async fn forward(listener: std::net::TcpListener, to: SocketAddr) -> Result<()> {
    let listener = TcpListener::from_std(listener).context("taking over the listener")?;
    loop {
        let (mut near, _) = listener.accept().await.context("accepting")?;
        tokio::spawn(async move {
            // Either side's failure closes both, which is all that the other needs to know.
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
