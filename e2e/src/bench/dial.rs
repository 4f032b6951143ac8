//! The process that dials and takes the time.
//!
//! A socket belongs for life to the cgroup and the namespace in which it was made. Where variants alternate dial by dial,
//! the dialler therefore makes all sockets of a block first, moving between cgroups and namespaces as it goes, and then dials them one by one in an
//! order drawn anew for each round: every kind of dial meets the same moments of the machine.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::lab::netns;

use super::kernel;
use super::stats::median;

/// One kind of dial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) cgroup: PathBuf,
    pub(crate) netns: String,
    pub(crate) target: SocketAddr,
    /// The rest is for [`Measure::Hook`].
    pub(crate) hook: Hook,
}

/// How [`Measure::Hook`] dials.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// The programs whose mean runs are added up.
    pub(crate) programs: Vec<u32>,
    /// Of so many addresses from the target's on each dial draws one; 0 for the target alone.
    pub(crate) spread: u32,
    /// Connections that are open meanwhile; each dial closes the oldest.
    pub(crate) live: usize,
    pub(crate) is_udp: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Measure {
    /// Time of connect and close; variants alternate connection by connection.
    Connect,
    /// Time of a request and its answer on an established connection; variants alternate likewise.
    RoundTrip,
    /// Time of a datagram and its answer on an unconnected socket; variants alternate likewise.
    Datagram,
    /// The kernel's own time of the hook; variants alternate by block.
    Hook,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) measure: Measure,
    pub(crate) variants: Vec<Variant>,
    pub(crate) blocks: usize,
    /// Dials of each variant in a block.
    pub(crate) dials: usize,
}

/// For each variant and block, the nanoseconds: of the median dial, or of the mean run of the hook.
pub(crate) type Outcome = BTreeMap<String, Vec<f64>>;

/// Carries out the plan in the file, and prints the outcome.
pub fn run(path: &std::path::Path) -> Result<()> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&text).context("the plan is no plan")?;
    let mut outcome = Outcome::new();
    let mut order = Order(0x9e37_79b9);
    kernel::raise_open_files()?;
    // The first block warms everything up and is not counted.
    for block in 0..=plan.blocks {
        let values = match plan.measure {
            Measure::Connect => connects(&plan, &mut order)?,
            Measure::RoundTrip => round_trips(&plan, &mut order)?,
            Measure::Datagram => datagrams(&plan, &mut order)?,
            Measure::Hook => runs(&plan, &mut order)?,
        };
        for (variant, value) in plan.variants.iter().zip(values).filter(|_| block > 0) {
            outcome.entry(variant.name.clone()).or_default().push(value);
        }
    }
    serde_json::to_writer(std::io::stdout(), &outcome).context("writing the outcome")
}

/// Draws orders; a linear congruential generator is random enough to follow nobody's rhythm.
struct Order(u32);

impl Order {
    fn draw(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            self.0 = self.0.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            order.swap(last, usize::try_from(self.0 >> 16).unwrap_or(0) % (last + 1));
        }
        order
    }

    /// A number below the bound.
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        u32::try_from((u64::from(self.0) * u64::from(bound)) >> 32).expect("below the bound")
    }
}

impl Variant {
    fn enter(&self) -> Result<()> {
        let procs = self.cgroup.join("cgroup.procs");
        let own = fs::read_to_string("/proc/self/cgroup").context("reading the own cgroup")?;
        let name = self.cgroup.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Moving costs a grace period; not moving costs nothing.
        if !own.lines().any(|line| line.starts_with("0::") && line.ends_with(&format!("/{name}"))) {
            fs::write(&procs, "0").with_context(|| format!("writing {}", procs.display()))?;
        }
        netns::enter_by_path(&netns::path_of(&self.netns))
    }

    fn sockets(&self, count: usize) -> Result<Vec<Socket>> {
        self.enter()?;
        (0..count).map(|_| reset_on_close()).collect()
    }

    /// Makes a socket and dials one of the targets.
    fn open(&self, order: &mut Order) -> Result<Socket> {
        let socket = if self.hook.is_udp {
            Socket::new(Domain::IPV4, Type::DGRAM, None).context("making a socket")?
        } else {
            reset_on_close()?
        };
        let SocketAddr::V4(first) = self.target else { bail!("{} is not IPv4", self.target) };
        let address = u32::from(*first.ip()) + order.below(self.hook.spread);
        let target = SocketAddr::from((Ipv4Addr::from(address), first.port()));
        socket.connect(&target.into()).with_context(|| format!("{}: dialling {target}", self.name))?;
        Ok(socket)
    }

    fn connect(&self, socket: &Socket) -> Result<()> {
        socket
            .connect(&self.target.into())
            .with_context(|| format!("{}: dialling {}", self.name, self.target))
    }
}

/// A socket that is closed by a reset: no port waits for two minutes, so the thousandth dial is as the first.
fn reset_on_close() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("making a socket")?;
    socket.set_linger(Some(Duration::ZERO)).context("setting SO_LINGER")?;
    Ok(socket)
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

fn connects(plan: &Plan, order: &mut Order) -> Result<Vec<f64>> {
    let sockets = plan.variants.iter().map(|variant| variant.sockets(plan.dials));
    let mut sockets = sockets.collect::<Result<Vec<_>>>()?;
    let mut times = vec![Vec::with_capacity(plan.dials); plan.variants.len()];
    for _ in 0..plan.dials {
        for index in order.draw(plan.variants.len()) {
            let socket = sockets[index].pop().context("as many sockets as dials")?;
            let start = Instant::now();
            plan.variants[index].connect(&socket)?;
            drop(socket);
            times[index].push(nanoseconds(start));
        }
    }
    Ok(times.iter().map(|times| median(times)).collect())
}

fn round_trips(plan: &Plan, order: &mut Order) -> Result<Vec<f64>> {
    let streams = plan.variants.iter().map(|variant| {
        let socket = variant.sockets(1)?.pop().context("one socket")?;
        variant.connect(&socket)?;
        socket.set_tcp_nodelay(true)?;
        Ok(TcpStream::from(socket))
    });
    let mut streams = streams.collect::<Result<Vec<_>>>()?;
    let mut times = vec![Vec::with_capacity(plan.dials); plan.variants.len()];
    let mut buffer = [0; 64];
    for _ in 0..plan.dials {
        for index in order.draw(plan.variants.len()) {
            let start = Instant::now();
            streams[index].write_all(&buffer).and_then(|()| streams[index].read_exact(&mut buffer))?;
            times[index].push(nanoseconds(start));
        }
    }
    Ok(times.iter().map(|times| median(times)).collect())
}

fn datagrams(plan: &Plan, order: &mut Order) -> Result<Vec<f64>> {
    let sockets = plan.variants.iter().map(|variant| {
        variant.enter()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("making a UDP socket")?;
        // A lost answer fails the measurement instead of hanging it.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    let mut times = vec![Vec::with_capacity(plan.dials); plan.variants.len()];
    let mut buffer = [0; 64];
    for _ in 0..plan.dials {
        for index in order.draw(plan.variants.len()) {
            let (socket, variant) = (&sockets[index], &plan.variants[index]);
            let start = Instant::now();
            let sent = socket.send_to(&buffer, variant.target).and_then(|_| socket.recv_from(&mut buffer));
            times[index].push(nanoseconds(start));
            let (_, from) = sent.with_context(|| format!("{}: asking {}", variant.name, variant.target))?;
            ensure!(from == variant.target, "{}: {from} answered for {}", variant.name, variant.target);
        }
    }
    Ok(times.iter().map(|times| median(times)).collect())
}

fn runs(plan: &Plan, order: &mut Order) -> Result<Vec<f64>> {
    let mut values = vec![0.0; plan.variants.len()];
    for index in order.draw(plan.variants.len()) {
        let variant = &plan.variants[index];
        variant.enter()?;
        let live = (0..variant.hook.live).map(|_| variant.open(order));
        let mut live = live.collect::<Result<VecDeque<_>>>()?;
        let run_times = || variant.hook.programs.iter().map(|program| kernel::run_time(*program));
        let before = run_times().collect::<Result<Vec<_>>>()?;
        // Made one by one, as applications do: thousands of sockets made beforehand leave the caches, and the hook
        // would pay for that.
        for _ in 0..plan.dials {
            live.push_back(variant.open(order)?);
            live.pop_front();
        }
        let after = run_times().collect::<Result<Vec<_>>>()?;
        let means = after.iter().zip(before).map(|(after, before)| after.since(before));
        values[index] = means.sum::<Option<f64>>().context("the hook did not run")?;
    }
    Ok(values)
}
