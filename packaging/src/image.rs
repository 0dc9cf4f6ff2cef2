//! A container image in the OCI layout, as a tar archive: one layer with the static binary and nothing else.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::about::{LICENCE, NAME, SUMMARY, VERSION};
use crate::archive::Archive;
use crate::list::compressed;

/// Where the binary is in it.
pub(crate) const PATH: &str = "/usr/bin/reuseport-lb";

/// The file's name.
pub(crate) fn name(architecture: &str) -> String {
    format!("{NAME}-{VERSION}-{architecture}.oci.tar")
}

/// The bytes of the image. What rights a container of it needs is in docs/INSTALL.md.
pub(crate) fn image(binary: &[u8], architecture: &str, date: u64) -> Result<Vec<u8>> {
    let mut layer = Archive::new(date);
    layer.file(PATH, 0o755, binary)?;
    // Where a BPF file system, the daemon's sockets and settings belong.
    for folder in ["etc", "run", "sys/fs/bpf", "tmp"] {
        layer.folder(folder)?;
    }
    let layer = layer.finish()?;
    let layer_digest = digest(&layer);
    let mut blobs = Blobs { archive: Archive::new(date) };
    let layer = blobs.add("application/vnd.oci.image.layer.v1.tar+gzip", &compressed(&layer)?)?;
    let created =
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(date));
    let labels = json!({
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.description": SUMMARY,
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.licenses": LICENCE,
    });
    let config = json!({
        "created": created.to_string(),
        "architecture": goarch(architecture),
        "os": "linux",
        "config": {
            "Entrypoint": [PATH],
            "Cmd": ["run"],
            "Env": ["PATH=/usr/bin"],
            "Labels": labels,
            "StopSignal": "SIGTERM",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created": created.to_string(), "created_by": "cargo xtask dist" }],
    });
    let config = blobs.add_json("application/vnd.oci.image.config.v1+json", &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
        "annotations": labels,
    });
    let mut manifest = blobs.add_json("application/vnd.oci.image.manifest.v1+json", &manifest)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("{NAME}:{VERSION}") });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let mut archive = blobs.archive;
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    archive.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    archive.finish()
}

/// Contents of the image, by digest.
struct Blobs {
    archive: Archive,
}

impl Blobs {
    /// Adds a blob; returns what names it.
    fn add(&mut self, media_type: &str, content: &[u8]) -> Result<Value> {
        let digest = digest(content);
        self.archive.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, content)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": content.len() }))
    }

    fn add_json(&mut self, media_type: &str, content: &Value) -> Result<Value> {
        self.add(media_type, content.to_string().as_bytes())
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

fn goarch(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
