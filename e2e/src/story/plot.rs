//! The events of the story, in order.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::lab::component::Stop;
use crate::lab::manifest::ServiceSpec;
use crate::lab::workload::Change;

use super::SERVICE;
use super::board::{Board, XWing};
use super::expect::Expectation;
use super::step::{Direction, Move, Step, Under};

/// Pods of the service in each cluster.
const REPLICAS: usize = 2;
/// How many steps [`tell`] tells.
pub const STEPS: usize = 6;
/// How long killed pods stay in the objects: what a kubelet and the controllers would take, or less.
const UNNOTICED: Duration = Duration::from_millis(1500);
/// How long the audience sees two clusters that don't know each other.
const STRANGERS: Duration = Duration::from_secs(2);
/// How long the mesh may take to follow a change.
const FOLLOWED: Duration = Duration::from_secs(10);
/// How long connections may go on being refused when the manifest has followed.
const GRACE: Duration = Duration::from_secs(1);

/// Deploys the service everywhere and starts an x-wing on every node. The clusters don't know each other yet.
pub fn set_up(lab: &mut Lab, board: &Board) -> Result<()> {
    for cluster in lab.clusters_mut() {
        cluster.apply(&ServiceSpec::global(SERVICE, REPLICAS))?;
    }
    lab.wait_own_backends(SERVICE, REPLICAS)?;
    for cluster in &board.clusters {
        for node in 0..lab.cluster(cluster)?.nodes().len() {
            let records = lab.dial(cluster, node, &format!("x-wing-{}", node + 1), SERVICE)?;
            board.join(XWing { cluster: cluster.clone(), records });
        }
    }
    Ok(())
}

/// Tells the story of the first two clusters.
pub fn tell(lab: &mut Lab, board: &Board) -> Result<Vec<Step>> {
    let [one, other, ..] = board.clusters.as_slice() else {
        anyhow::bail!("the story needs two clusters");
    };
    let mut teller = Teller { lab, board, one: one.clone(), other: other.clone() };
    let steps = [
        teller.clusters_join(),
        teller.pods_are_deleted(),
        teller.deleted_pods_come_back(),
        teller.pods_are_killed(),
        teller.killed_pods_come_back(),
        teller.agents_are_killed(),
    ];
    let steps = steps.into_iter().collect::<Result<Vec<_>>>()?;
    lab.check()?;
    lab.end_clients().context("ending the x-wings")?;
    Ok(steps)
}

struct Teller<'w> {
    lab: &'w mut Lab,
    board: &'w Board,
    one: String,
    other: String,
}

impl Teller<'_> {
    fn begin(&self, name: String, tale: &str) -> Under {
        Under::begin(self.board, name, tale)
    }

    fn both(&self) -> Expectation {
        Expectation::AllAnswer(vec![self.one.clone(), self.other.clone()])
    }

    fn moved(&mut self, change: Change, direction: Direction) -> Move {
        let control = self.lab.control_time(&change, FOLLOWED).map_err(|error| format!("{error:#}"));
        Move { change, control, direction }
    }

    /// Until then every x-wing is answered by its own cluster.
    fn clusters_join(&mut self) -> Result<Step> {
        let command = self.lab.join_command().join(" ");
        let step =
            self.begin(format!("{} and {} join", self.one, self.other), "One command makes them one mesh.");
        thread::sleep(STRANGERS);
        self.board.command(command);
        self.lab.join()?;
        self.lab.wait_backends(SERVICE, REPLICAS)?;
        Ok(step.hold(None, vec![Expectation::NoErrors, self.both()]))
    }

    fn pods_are_deleted(&mut self) -> Result<Step> {
        let tale = "As Kubernetes does it: terminating first, the processes end later.";
        let step = self.begin(format!("{}: pods deleted", self.one), tale);
        let change = self.lab.cluster(&self.one)?.scale(SERVICE, 0)?;
        let moved = self.moved(change, Direction::Away);
        let rest = Expectation::OnlyAnswers(self.other.clone());
        Ok(step.hold(Some(moved), vec![Expectation::NoErrors, Expectation::Followed, rest]))
    }

    fn deleted_pods_come_back(&mut self) -> Result<Step> {
        self.come_back(self.one.clone())
    }

    fn pods_are_killed(&mut self) -> Result<Step> {
        let tale = "kill -9, nobody told: their part is refused until the manifest follows.";
        let step = self.begin(format!("{}: pods killed", self.other), tale);
        self.lab.cluster(&self.other)?.kill_pods(SERVICE)?;
        thread::sleep(UNNOTICED);
        let change = self.lab.cluster(&self.other)?.notice_killed_pods(SERVICE)?;
        let moved = self.moved(change, Direction::Away);
        thread::sleep(GRACE);
        let refused = Expectation::OnlyRefusedUntilNoticed { grace: GRACE };
        let rest = Expectation::OnlyAnswers(self.one.clone());
        Ok(step.hold(Some(moved), vec![refused, Expectation::Followed, rest]))
    }

    fn killed_pods_come_back(&mut self) -> Result<Step> {
        self.come_back(self.other.clone())
    }

    fn come_back(&mut self, cluster: String) -> Result<Step> {
        let step = self
            .begin(format!("{cluster}: pods back"), "New pods, new addresses: both clusters answer again.");
        let change = self.lab.cluster(&cluster)?.scale(SERVICE, REPLICAS)?;
        let moved = self.moved(change, Direction::Back);
        self.lab.wait_backends(SERVICE, REPLICAS)?;
        Ok(step.hold(Some(moved), vec![Expectation::NoErrors, Expectation::Followed, self.both()]))
    }

    fn agents_are_killed(&mut self) -> Result<Step> {
        let tale = "kill -9 to the agents of all nodes, a second without any, then they start again.";
        let step = self.begin("agents killed and restarted".into(), tale);
        self.lab.stop_agents(Stop::Kill)?;
        thread::sleep(Duration::from_secs(1));
        self.lab.start_agents()?;
        Ok(step.hold(None, vec![Expectation::NoErrors, self.both()]))
    }
}
