//! The key that signs checkpoints of a private log, and the keys that a verifier trusts.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use causeway_proof::{PublicKey, Signer};
use causeway_runtime::config::Secret;

use crate::data_dir::DataDir;
use crate::failure::Usage;
use crate::output::Output;

const SECRET: &str = "signing-key";
const PUBLIC: &str = "signing-key.pub";

/// The key of this data folder; made at its first start.
pub(crate) fn of_folder(data: &DataDir, out: &Output) -> anyhow::Result<Secret> {
    let (secret, public) = (data.join(SECRET), data.join(PUBLIC));
    if !secret.exists() {
        make(&secret)?;
    }
    let text = fs::read_to_string(&secret).with_context(|| format!("cannot read the signing key {}", secret.display()))?;
    let signer = Signer::parse(&text).with_context(|| format!("the signing key {}", secret.display()))?;
    let key = format!("{}\n", signer.public_key());
    if fs::read_to_string(&public).is_ok_and(|known| known == key) {
        return Ok(text.into());
    }
    fs::write(&public, key).with_context(|| format!("cannot write {}", public.display()))?;
    if out.person() {
        out.note(&format!("checkpoints of the log are signed; keep a copy of the public key {} elsewhere", public.display()));
    }
    Ok(text.into())
}

/// Writes a fresh seed that only its owner can read.
fn make(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot make the signing key {}", path.display());
    let mut seed = [0; 32];
    fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed)).with_context(cannot)?;
    let text: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    // Under another name until it is whole.
    let part = path.with_extension("part");
    let _ = fs::remove_file(&part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).with_context(cannot)?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).with_context(cannot)?;
    fs::rename(&part, path).with_context(cannot)
}

/// Whether this folder has the key that signs.
pub(super) fn is_there(data: &Path) -> bool {
    data.join(SECRET).exists()
}

/// What `--public-key` names, each a file or a key; with none, the key of the data folder if it has one, which is told.
pub(super) fn trusted(given: &[String], data: Option<&Path>, out: &Output) -> anyhow::Result<Vec<PublicKey>> {
    if given.is_empty() {
        let Some(own) = data.map(|data| data.join(PUBLIC)).filter(|own| own.exists()) else { return Ok(Vec::new()) };
        if !out.json {
            out.note(&format!("trusting the key in {}", own.display()));
        }
        return Ok(vec![read(&own.display().to_string())?]);
    }
    given.iter().map(|text| read(text)).collect()
}

fn read(text: &str) -> anyhow::Result<PublicKey> {
    if let Ok(key) = PublicKey::parse(text) {
        return Ok(key);
    }
    let usage = |why: &dyn std::fmt::Display| Usage(format!("--public-key {text}: {why}"));
    let file = fs::read_to_string(text).map_err(|error| usage(&format!("neither a key nor a file: {error}")))?;
    // Half of all seeds could be public keys: taken for one, nothing would be signed by it.
    let own = Path::new(text).with_extension("pub");
    if let (Ok(signer), Ok(public)) = (Signer::parse(&file), fs::read_to_string(&own))
        && public.trim() == signer.public_key().to_string()
    {
        return Err(usage(&format!("that is the key that signs, which nobody else needs to see; give {}", own.display())).into());
    }
    Ok(PublicKey::parse(&file).map_err(|error| usage(&error))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_has_one_key_which_only_its_owner_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::take(folder.path()).unwrap();
        let out = Output::new(true);
        let first = of_folder(&data, &out).unwrap();
        assert_eq!(of_folder(&data, &out).unwrap(), first);
        assert_eq!(fs::metadata(data.join(SECRET)).unwrap().permissions().mode() & 0o777, 0o600);
        let trusted = trusted(&[], Some(folder.path()), &out).unwrap();
        assert_eq!(trusted, [Signer::parse(first.expose()).unwrap().public_key()]);
        assert_eq!(super::trusted(&[trusted[0].to_string()], None, &out).unwrap(), trusted);
        assert!(super::trusted(&["no-such-file".to_owned()], None, &out).is_err());
        let secret = super::trusted(&[data.join(SECRET).display().to_string()], None, &out).unwrap_err();
        assert!(secret.to_string().contains("that is the key that signs") && secret.is::<Usage>(), "{secret}");
    }
}
