//! Who this process's cluster is, by its flags: name, id and address ranges.
//!
//! Owns what ranges a cluster may have. What the cluster tells of its ranges itself completes them: see
//! [`crate::ranges`].

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use mesh_model::address_policy::OwnRanges;
use mesh_model::name::{ClusterId, ClusterName};

/// Who this process's cluster is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster identity")]
pub struct IdentityArgs {
    /// Name of this cluster, unique in the mesh: lower case letters, digits and '-', at most 63.
    ///
    /// Peers call this cluster by it: their peer file is `<name>.yaml`.
    #[arg(long, env = "CLUSTERMESH_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: ClusterName,

    /// Id of this cluster, unique in the mesh: 1–4095.
    ///
    /// Name and id stay for the cluster's life; peers pin both and refuse a cluster that changes one.
    #[arg(long, env = "CLUSTERMESH_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: ClusterId,

    /// A range that pod addresses come from, e.g. 10.1.0.0/16. Repeatable.
    ///
    /// Pods of all clusters must be routed to each other, and their ranges must not overlap. A backend that a
    /// peer announces inside this range is refused. With --source kubernetes the Nodes' podCIDRs are the default.
    #[arg(long = "pod-cidr", env = "CLUSTERMESH_POD_CIDR", value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub pod_cidrs: Vec<IpNet>,

    /// A range that ClusterIPs come from, e.g. 10.96.0.0/16. Repeatable; clusters may use the same one.
    ///
    /// With --source kubernetes the ServiceCIDRs are the default.
    #[arg(
        long = "service-cidr",
        env = "CLUSTERMESH_SERVICE_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = cidr
    )]
    pub service_cidrs: Vec<IpNet>,

    /// A range that node addresses come from, e.g. 192.168.1.0/24. Repeatable.
    ///
    /// Backends on the host network have such addresses. With --source kubernetes the Nodes' own addresses are the
    /// default.
    #[arg(long = "node-cidr", env = "CLUSTERMESH_NODE_CIDR", value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub node_cidrs: Vec<IpNet>,
}

/// A cluster's identity and address ranges, validated. Ranges are sorted and without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: ClusterName,
    pub id: ClusterId,
    pub pod_cidrs: Vec<IpNet>,
    /// Disjoint from the pod and node ranges.
    pub service_cidrs: Vec<IpNet>,
    /// May overlap the pod ranges: some networks give pods node addresses.
    pub node_cidrs: Vec<IpNet>,
}

/// Why an identity was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("{flag} {range} has bits set behind its prefix; write {network}")]
    HostBits { flag: &'static str, range: IpNet, network: IpNet },
    #[error("{flag} {range} {why}; name the range that this cluster really uses")]
    Unusable { flag: &'static str, range: IpNet, why: &'static str },
    #[error(
        "--service-cidr {service} overlaps {flag} {other}; ClusterIPs must be apart from addresses of pods and nodes, \
         so correct whichever is wrong"
    )]
    Overlap { service: IpNet, flag: &'static str, other: IpNet },
    #[error("{flag} is needed: {why}; name the ranges that this cluster uses")]
    Missing { flag: &'static str, why: &'static str },
}

impl TryFrom<IdentityArgs> for Identity {
    type Error = IdentityError;

    fn try_from(args: IdentityArgs) -> Result<Self, IdentityError> {
        let pod_cidrs = ranges("--pod-cidr", args.pod_cidrs)?;
        let service_cidrs = ranges("--service-cidr", args.service_cidrs)?;
        let node_cidrs = ranges("--node-cidr", args.node_cidrs)?;
        check_apart(&service_cidrs, "--pod-cidr", &pod_cidrs)?;
        check_apart(&service_cidrs, "--node-cidr", &node_cidrs)?;
        Ok(Self { name: args.cluster_name, id: args.cluster_id, pod_cidrs, service_cidrs, node_cidrs })
    }
}

impl IdentityArgs {
    /// Validates the flags against each other.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        self.clone().try_into()
    }

    /// The same, where the cluster itself tells the ranges that no flag names.
    pub(crate) fn identity_within(&self, found: &OwnRanges) -> Result<Identity, IdentityError> {
        let told =
            |flag: &[IpNet], found: &[IpNet]| if flag.is_empty() { found.to_vec() } else { flag.to_vec() };
        let args = Self {
            pod_cidrs: told(&self.pod_cidrs, &found.pods),
            service_cidrs: told(&self.service_cidrs, &found.services),
            node_cidrs: told(&self.node_cidrs, &found.nodes),
            ..self.clone()
        };
        let missing = [
            ("--pod-cidr", &args.pod_cidrs, "no Node has spec.podCIDRs"),
            ("--service-cidr", &args.service_cidrs, "the API server has no ServiceCIDR objects"),
            ("--node-cidr", &args.node_cidrs, "no Node has an address"),
        ];
        if let Some((flag, _, why)) = missing.into_iter().find(|(_, ranges, _)| ranges.is_empty()) {
            return Err(IdentityError::Missing { flag, why });
        }
        args.identity()
    }
}

/// A range, or what to write instead.
fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => {
            format!("a range has a prefix length; write e.g. {address}/{}", likely_prefix(address))
        }
        Err(_) => "it is no range of addresses; write e.g. 10.1.0.0/16 or fd01::/56".into(),
    })
}

/// The prefix that whoever wrote the address of a network without one most likely means.
fn likely_prefix(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => 32 - v4.to_bits().trailing_zeros().min(24) / 8 * 8,
        IpAddr::V6(v6) => 128 - v6.to_bits().trailing_zeros().min(64) / 16 * 16,
    }
}

fn ranges(flag: &'static str, mut ranges: Vec<IpNet>) -> Result<Vec<IpNet>, IdentityError> {
    for range in &ranges {
        check_range(flag, *range)?;
    }
    ranges.sort();
    ranges.dedup();
    Ok(ranges)
}

fn check_range(flag: &'static str, range: IpNet) -> Result<(), IdentityError> {
    if range.trunc() != range {
        return Err(IdentityError::HostBits { flag, range, network: range.trunc() });
    }
    let address = range.network();
    let why = if range.prefix_len() == 0 {
        "covers every address"
    } else if address.is_loopback() {
        "is loopback"
    } else if address.is_multicast() {
        "is multicast"
    } else if is_link_local(address) {
        "is link-local"
    } else {
        return Ok(());
    };
    Err(IdentityError::Unusable { flag, range, why })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn check_apart(services: &[IpNet], flag: &'static str, others: &[IpNet]) -> Result<(), IdentityError> {
    for service in services {
        if let Some(other) = others.iter().find(|other| overlap(service, other)) {
            return Err(IdentityError::Overlap { service: *service, flag, other: *other });
        }
    }
    Ok(())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        identity: IdentityArgs,
    }

    fn parse(more: &[&str]) -> Result<Flags, clap::Error> {
        let base = ["test", "--cluster-name", "rebels", "--cluster-id", "7"];
        Flags::try_parse_from(base.iter().chain(more))
    }

    fn identity(more: &[&str]) -> Result<Identity, IdentityError> {
        parse(more).expect("the flags parse").identity.identity()
    }

    #[test]
    fn flags_become_a_sorted_identity() {
        let args = [
            "--pod-cidr",
            "10.2.0.0/16",
            "--pod-cidr",
            "10.1.0.0/16,10.2.0.0/16",
            "--node-cidr",
            "fd00::/64",
        ];
        let identity = identity(&args).expect("valid");
        assert_eq!(identity.name.as_str(), "rebels");
        assert_eq!(identity.id.value(), 7);
        assert_eq!(
            identity.pod_cidrs,
            ["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse::<IpNet>().unwrap()]
        );
        assert_eq!(identity.node_cidrs, ["fd00::/64".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn host_bits_are_refused_with_the_remedy() {
        let error = identity(&["--pod-cidr", "10.1.2.3/16"]).expect_err("host bits");
        assert_eq!(
            error.to_string(),
            "--pod-cidr 10.1.2.3/16 has bits set behind its prefix; write 10.1.0.0/16"
        );
    }

    #[test]
    fn an_address_in_place_of_a_range_is_told_what_to_write() {
        for (written, meant) in [
            ("10.1.0.0", "10.1.0.0/16"),
            ("10.0.0.0", "10.0.0.0/8"),
            ("192.168.1.0", "192.168.1.0/24"),
            ("192.168.1.7", "192.168.1.7/32"),
            ("fd01::", "fd01::/64"),
            ("fd01:0:0:1::", "fd01:0:0:1::/64"),
            ("fd01::1", "fd01::1/128"),
        ] {
            assert_eq!(cidr(written), Err(format!("a range has a prefix length; write e.g. {meant}")));
            assert!(identity(&["--pod-cidr", meant]).is_ok(), "{meant} is taken");
        }
        for no_range in ["", "pods", "10.1.0.0/", "10.1.0.0/33", "10.1.0/16"] {
            assert!(cidr(no_range).expect_err(no_range).contains("write e.g. 10.1.0.0/16 or fd01::/56"));
        }
    }

    #[test]
    fn ranges_that_no_cluster_has_are_refused() {
        for bad in
            ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/0", "::/0", "fe80::/64", "ff00::/8"]
        {
            let error = identity(&["--node-cidr", bad]).expect_err(bad);
            assert!(matches!(error, IdentityError::Unusable { flag: "--node-cidr", .. }), "{error}");
        }
    }

    #[test]
    fn services_must_be_apart_from_pods_and_nodes() {
        for flag in ["--pod-cidr", "--node-cidr"] {
            let error = identity(&["--service-cidr", "10.0.0.0/8", flag, "10.96.0.0/16"]).expect_err(flag);
            assert!(
                error
                    .to_string()
                    .contains(&format!("--service-cidr 10.0.0.0/8 overlaps {flag} 10.96.0.0/16"))
            );
        }
        identity(&["--pod-cidr", "10.1.0.0/16", "--node-cidr", "10.1.0.0/16"])
            .expect("pods may have node addresses");
    }

    #[test]
    fn what_no_flag_names_the_cluster_tells() {
        let found = OwnRanges {
            pods: vec!["10.244.0.0/23".parse().unwrap()],
            services: vec!["10.96.0.0/16".parse().unwrap()],
            nodes: vec!["192.168.1.1/32".parse().unwrap()],
        };
        let flags = parse(&["--pod-cidr", "10.244.0.0/16"]).expect("the flags parse").identity;
        let identity = flags.identity_within(&found).expect("complete");
        assert_eq!(identity.pod_cidrs, ["10.244.0.0/16".parse::<IpNet>().unwrap()]);
        assert_eq!(
            (identity.service_cidrs, identity.node_cidrs),
            (found.services.clone(), found.nodes.clone())
        );

        let nothing = OwnRanges { services: Vec::new(), ..found.clone() };
        let error = flags.identity_within(&nothing).expect_err("no service range");
        assert!(
            error.to_string().starts_with("--service-cidr is needed: the API server has no ServiceCIDR"),
            "{error}"
        );
        let nodes = (0..2000_u32).map(|n| IpNet::from(IpAddr::from((n * 2 + 0x0a00_0000).to_be_bytes())));
        let many = OwnRanges { nodes: nodes.collect(), ..found };
        assert_eq!(flags.identity_within(&many).expect("any number").node_cidrs.len(), 2000);
    }

    #[test]
    fn bad_flags_are_refused_at_the_door() {
        for bad in [["--pod-cidr", "10.1.0.0"], ["--cluster-id", "0"]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
        assert!(Flags::try_parse_from(["test", "--cluster-name", "A", "--cluster-id", "1"]).is_err());
    }
}
