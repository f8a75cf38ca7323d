//! Keys, certificates and kubeconfigs of a throw-away cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::layout::{API_PORT, API_SERVICE, CP, NODES};

/// The clients of the API server: (file name, common name, group).
const USERS: [(&str, &str, Option<&str>); 4] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("scheduler", "system:kube-scheduler", None),
];

/// Writes everything into `folder`.
pub fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let cluster = Authority::create(folder, "ca")?;
    let proxy = Authority::create(folder, "front-proxy-ca")?;
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"];
    let server = [&names[..], &[API_SERVICE, CP.ip, CP.ip6]].concat();
    cluster.issue("apiserver", "kube-apiserver", None, &server)?;
    cluster.issue("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"), &[])?;
    proxy.issue("front-proxy-client", "front-proxy-client", None, &[])?;
    let tokens = KeyPair::generate()?;
    write(&folder.join("sa.key"), &tokens.serialize_pem())?;
    write(&folder.join("sa.pub"), &tokens.public_key_pem())?;
    for (file, user, group) in USERS {
        cluster.kubeconfig(file, user, group)?;
    }
    for node in NODES {
        cluster.kubeconfig(node.name, &format!("system:node:{}", node.name), Some("system:nodes"))?;
    }
    Ok(())
}

struct Authority {
    folder: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn create(folder: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(name, None, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem();
        write(&folder.join(format!("{name}.crt")), &pem)?;
        write(&folder.join(format!("{name}.key")), &key.serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), pem, issuer: Issuer::new(params, key) })
    }

    /// Issues `file`.crt and `file`.key; with `names` it is a server's.
    fn issue(&self, file: &str, common_name: &str, group: Option<&str>, names: &[&str]) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = params(common_name, group, names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !names.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        write(&self.folder.join(format!("{file}.crt")), &certificate)?;
        write(&self.folder.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok((certificate, key.serialize_pem()))
    }

    /// Writes a kubeconfig as JSON, which is valid YAML.
    fn kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let (certificate, key) = self.issue(file, user, group, &[])?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "lab", "cluster": {
                "server": format!("https://{}:{API_PORT}", CP.ip),
                "certificate-authority-data": STANDARD.encode(&self.pem),
            }}],
            "users": [{ "name": file, "user": {
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key),
            }}],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": file } }],
            "current-context": "lab",
        });
        write(&self.folder.join(format!("{file}.kubeconfig")), &config.to_string())
    }
}

fn params(common_name: &str, group: Option<&str>, names: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
