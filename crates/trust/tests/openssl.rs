//! Certificates of somebody else's tools: openssl makes an authority, an intermediate one and a leaf, and what we make
//! satisfies openssl.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::name::ClusterName;
use mesh_trust::{Authority, Bundle, Certificate, Lifetime, Role, Side, Trust};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

fn openssl(folder: &Path, command: &str) -> String {
    let output =
        Command::new("openssl").args(command.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn hoth() -> ClusterName {
    ClusterName::new("hoth").unwrap()
}

#[test]
fn a_companys_chain_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(
        at.join("ca.cnf"),
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n",
    )
    .unwrap();
    std::fs::write(
        at.join("leaf.cnf"),
        "subjectAltName=URI:spiffe://company/mesh,URI:clustermesh://hoth/agent,DNS:agent.hoth\nextendedKeyUsage=clientAuth\n",
    )
    .unwrap();
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.crt -days 2 -subj /CN=Company");
    for (name, signer, extensions) in [("middle", "root", "ca.cnf"), ("leaf", "middle", "leaf.cnf")] {
        openssl(
            at,
            &format!("req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA {signer}.crt -CAkey {signer}.key -CAcreateserial -days 1 -out {name}.crt \
                 -extfile {extensions}"
            ),
        );
    }
    let bundle = Bundle::from_pem(&std::fs::read_to_string(at.join("root.crt")).unwrap()).unwrap();
    let shown = openssl(at, "x509 -in root.crt -noout -fingerprint -sha256");
    assert!(shown.trim().ends_with(&format!("={}", bundle.fingerprints()[0])), "{shown}");
    let trust = Trust::in_one(hoth(), Arc::new(bundle));
    let (leaf, middle) = (certificate(&at.join("leaf.crt")), certificate(&at.join("middle.crt")));
    let identity = trust.admit(&leaf, std::slice::from_ref(&middle), Side::Client, UnixTime::now()).unwrap();
    assert_eq!(identity.to_string(), "clustermesh://hoth/agent");
    trust.admit(&leaf, &[], Side::Client, UnixTime::now()).unwrap_err();
}

#[test]
fn openssl_takes_what_we_make() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let authority = Authority::new(&hoth(), UnixTime::now()).unwrap();
    let lifetime = Lifetime::starting(UnixTime::now(), Duration::from_secs(3600));
    let issued = authority.issue(Role::Apiserver, &["mesh.hoth".into()], lifetime).unwrap();
    std::fs::write(at.join("ca.crt"), authority.certificate_pem()).unwrap();
    std::fs::write(at.join("tls.crt"), &issued.certificate_pem).unwrap();
    openssl(at, "verify -x509_strict -purpose sslserver -CAfile ca.crt -verify_hostname mesh.hoth tls.crt");
    openssl(at, "verify -x509_strict -purpose sslclient -CAfile ca.crt tls.crt");
    let text = openssl(at, "x509 -in tls.crt -noout -ext subjectAltName");
    assert!(text.contains("URI:clustermesh://hoth/apiserver, DNS:mesh.hoth"), "{text}");
    let serial = Certificate::read(&certificate(&at.join("tls.crt"))).unwrap().serial;
    std::fs::write(at.join("ca.crl"), authority.revoke(&[serial], 7, lifetime).unwrap()).unwrap();
    let verified = Command::new("openssl")
        .args("verify -crl_check -CAfile ca.crt -CRLfile ca.crl tls.crt".split_whitespace())
        .current_dir(at)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&verified.stderr).contains("certificate revoked"), "{verified:?}");
}
