//! A Service that is exported to some clusters only, among three that read each other's mesh API.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::lab::manifest::ServiceSpec;
use mesh_e2e::lab::{Lab, LabSpec};
use mesh_e2e::wait;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "rebel-base";

/// Waits until the node of `reader` has so many backends of hoth, and says what its agent knows of hoth's Service.
fn until_seen(lab: &mut Lab, reader: &str, count: usize) -> Result<()> {
    wait::until(&format!("{reader} to see {count} backends of hoth"), PATIENCE, || {
        let node = &lab.cluster(reader)?.nodes()[0];
        let backends = node.admin(&format!("backends?service=default/{SERVICE}"))?;
        let of_hoth = backends["items"].as_array().into_iter().flatten().filter(|it| it["cluster"] == "hoth");
        let found = of_hoth.filter(|it| it["state"] == "active").count();
        ensure!(found == count, "{reader} has {found}: {backends}");
        Ok(())
    })
}

fn annotate(lab: &mut Lab, spec: &ServiceSpec, clusters: Option<&str>) -> Result<()> {
    let mut spec = spec.clone();
    if let Some(clusters) = clusters {
        spec.annotations.insert("clustermesh.io/export-to".into(), clusters.into());
    }
    lab.cluster("hoth")?.apply(&spec).map(drop)
}

#[test]
fn a_service_is_seen_by_the_clusters_that_it_names_and_by_no_other() -> Result<()> {
    let spec = LabSpec { mesh_api: true, nodes_per_cluster: 1, ..LabSpec::new(&["hoth", "yavin", "endor"]) };
    Lab::test(&spec, &["export-to"], |lab| {
        let service = ServiceSpec::global(SERVICE, 2);
        lab.apply(&service)?;
        let records = lab.dial("endor", 0, "x-wing", SERVICE)?;
        records.wait_answers(&["endor", "hoth", "yavin"])?;

        annotate(lab, &service, Some("yavin"))?;
        until_seen(lab, "endor", 0)?;
        until_seen(lab, "yavin", 2)?;
        until_seen(lab, "hoth", 2)?;
        let left_out =
            lab.cluster("endor")?.nodes()[0].admin(&format!("services?service=default/{SERVICE}"))?;
        ensure!(left_out.to_string().contains("not_offered"), "{left_out}");

        // What is no list of clusters changes nothing for anybody, and pods of it still come and go for those who see it.
        annotate(lab, &service, Some("Everybody!"))?;
        lab.cluster("hoth")?.scale(SERVICE, 3)?;
        until_seen(lab, "yavin", 3)?;
        until_seen(lab, "endor", 0)?;

        annotate(lab, &ServiceSpec::global(SERVICE, 3), Some("endor, yavin"))?;
        until_seen(lab, "endor", 3)?;
        annotate(lab, &ServiceSpec::global(SERVICE, 3), Some("endor"))?;
        until_seen(lab, "yavin", 0)?;
        annotate(lab, &ServiceSpec::global(SERVICE, 3), None)?;
        until_seen(lab, "yavin", 3)?;
        until_seen(lab, "endor", 3)?;
        records.ensure_no_failure()
    })
}
