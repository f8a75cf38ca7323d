//! Writes the kinds' manifests into the folder that is the first argument.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = env::args_os().nth(1).ok_or("usage: crdgen FOLDER")?.into();
    fs::create_dir_all(&folder)?;
    for (name, text) in holdfast_api::crds::manifests()? {
        fs::write(folder.join(&name), text)?;
        println!("{}", folder.join(name).display());
    }
    Ok(())
}
