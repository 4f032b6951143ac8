//! A cluster that begins with nothing: two real apiservers make its certificates in Secrets before etcd is there, and a real
//! etcd that is given its own admits nobody but them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod binaries;
mod secured;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use binaries::{Apiserver, DEADLINE, Lab, base};
use mesh_kv::testing::{free_port, wait_until};
use mesh_secrets::testing::FakeSecrets;
use secured::Etcd;
use serde_json::json;

const HOLDERS: [&str; 4] = ["ca", "apiserver", "agent", "etcd"];

/// Writes a Secret's keys where a kubelet would mount them.
fn mount(fake: &FakeSecrets, holder: &str, below: &Path) -> PathBuf {
    let folder = below.join(holder);
    fs::create_dir_all(&folder).unwrap();
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        fs::write(folder.join(key), fake.value(&format!("mesh-{holder}"), key).unwrap()).unwrap();
    }
    folder
}

/// What `etcdctl` reads with the certificate in a folder; none where it is not let in.
fn read(endpoint: &str, tls: &Path) -> Option<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args([
        "--endpoints",
        endpoint,
        "--dial-timeout=2s",
        "--command-timeout=3s",
    ]);
    command.arg("--cacert").arg(tls.join("ca.crt"));
    command.arg("--cert").arg(tls.join("tls.crt")).arg("--key").arg(tls.join("tls.key"));
    let output = command.args(["get", "--prefix", "--keys-only", "clustermesh/v1/"]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begins_with_nothing_and_its_etcd_admits_its_apiservers_only() {
    let (lab, fake) = (Lab::new(), FakeSecrets::start().await);
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let (port, kubeconfig) = (free_port(), fake.kubeconfig().display().to_string());
    let endpoint = format!("https://127.0.0.1:{port}");
    let placed = HOLDERS.map(|holder| format!("{holder}=mesh-{holder}")).join(",");
    let start = |replica: &str| {
        let certificates = lab.root.join(replica);
        let own = certificates.join("apiserver").display().to_string();
        let certificates = certificates.display().to_string();
        let flags = ["--certificates-secrets", &placed, "--certificates-dir", &certificates];
        let etcd = ["--etcd-endpoint", &endpoint, "--etcd-tls-dir", &own, "--kubeconfig", &kubeconfig];
        Apiserver::start_with(&lab, &[&flags[..], &etcd].concat())
    };
    let (one, two) = (start("one"), start("two"));
    let made = |holder: &str| fake.value(&format!("mesh-{holder}"), "tls.key").is_some();
    wait_until("all certificates", DEADLINE, || HOLDERS.into_iter().all(made));

    // Only now a kubelet would start etcd.
    let mounted = lab.root.join("mounted");
    let _etcd = Etcd::start(&mount(&fake, "etcd", &mounted), &lab.root.join("secured"), port);
    let own = mount(&fake, "apiserver", &mounted);
    wait_until("what the leader writes", DEADLINE, || {
        read(&endpoint, &own).is_some_and(|keys| keys.contains("services/hoth/default/rebel-base"))
    });
    one.until_ready();
    two.until_ready();
    for other in ["agent", "etcd"] {
        assert_eq!(read(&endpoint, &mount(&fake, other, &mounted)), None, "etcd lets {other} in");
    }
}

/// What the script of before has left in a cluster, handed over as docs/install.md says.
fn hand_over(fake: &FakeSecrets, folder: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/before/certificates.sh");
    let made = Command::new("bash").arg(script).arg("hoth").arg(folder).arg("192.168.2.10").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    fake.put("mesh-ca", &[("tls.crt", &text("ca.crt")), ("tls.key", &text("ca.key"))]);
    for holder in ["apiserver", "agent", "etcd"] {
        let (certificate, key) = (text(&format!("{holder}.crt")), text(&format!("{holder}.key")));
        let name = format!("mesh-{holder}");
        fake.put(&name, &[("ca.crt", &text("ca.crt")), ("tls.crt", &certificate), ("tls.key", &key)]);
        let mut object = fake.object(&name).unwrap();
        object["metadata"] = json!({"annotations": {"clustermesh.io/made-by": "clustermesh-apiserver"}});
        fake.put_object(&name, &object);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_the_script_before_are_taken_over_by_the_same_authority() {
    let (lab, fake) = (Lab::new(), FakeSecrets::start().await);
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    let before = lab.root.join("before");
    hand_over(&fake, &before);
    let authority = fake.object("mesh-ca").unwrap();
    let kubeconfig = fake.kubeconfig().display().to_string();
    let (dir, etcd) = (lab.root.join("certificates").display().to_string(), lab.etcd.endpoint().to_string());
    let placed = HOLDERS.map(|holder| format!("{holder}=mesh-{holder}")).join(",");
    let flags = ["--certificates-secrets", &placed, "--certificates-dir", &dir, "--kubeconfig", &kubeconfig];
    let apiserver = Apiserver::start_with(&lab, &[&["--etcd-endpoint", &etcd], &flags[..]].concat());
    let after = lab.root.join("after");
    for holder in ["apiserver", "agent", "etcd"] {
        let identity = format!("URI:clustermesh://hoth/{holder}");
        let mut said = String::new();
        wait_until(&identity, DEADLINE, || {
            said =
                openssl(&["x509", "-noout", "-text", "-in"], &mount(&fake, holder, &after).join("tls.crt"));
            said.contains(&identity)
        });
        let trusted = before.join("ca.crt").display().to_string();
        let said = openssl(&["verify", "-CAfile", &trusted], &after.join(holder).join("tls.crt"));
        assert!(said.ends_with(": OK\n"), "who trusts the old authority trusts {holder}: {said}");
    }
    apiserver.until_ready();
    assert_eq!(fake.object("mesh-ca").unwrap(), authority, "the authority is the user's, and never written");
}

fn openssl(arguments: &[&str], file: &Path) -> String {
    String::from_utf8(Command::new("openssl").args(arguments).arg(file).output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_may_not_be_read_are_told_with_the_remedy() {
    let (lab, fake) = (Lab::new(), FakeSecrets::start().await);
    lab.write("base.yaml", &base(&["10.2.0.1"]));
    fake.refuse(Some(403));
    let kubeconfig = fake.kubeconfig().display().to_string();
    let (dir, etcd) = (lab.root.join("certificates").display().to_string(), lab.etcd.endpoint().to_string());
    let placed = "ca=mesh-ca,apiserver=mesh-apiserver";
    let flags = ["--certificates-secrets", placed, "--certificates-dir", &dir, "--kubeconfig", &kubeconfig];
    let apiserver = Apiserver::start_with(&lab, &[&["--etcd-endpoint", &etcd], &flags[..]].concat());
    let mut said = String::new();
    wait_until("the reason", DEADLINE, || {
        said = apiserver.http("/readyz");
        said.contains("certificates: reading the Secret mesh-ca: let this process's service account get")
    });
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    fake.refuse(None);
    apiserver.until_ready();
}
