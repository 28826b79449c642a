//! Compiles upstream lwIP, found through cargo, with the port in `port/`.

use std::env;
use std::path::{Path, PathBuf};

/// The package that carries the C sources, and the folder they are in.
const PACKAGE: &str = "lwip";
const SOURCES: &str = "src";

const FILES: [&str; 15] = [
    "core/def.c",
    "core/inet_chksum.c",
    "core/init.c",
    "core/ip.c",
    "core/mem.c",
    "core/memp.c",
    "core/netif.c",
    "core/pbuf.c",
    "core/tcp.c",
    "core/tcp_in.c",
    "core/tcp_out.c",
    "core/ipv4/ip4.c",
    "core/ipv4/ip4_addr.c",
    "core/ipv6/ip6.c",
    "core/ipv6/ip6_addr.c",
];

/// IPv6 sending asks neighbour discovery for the path MTU, and that ICMPv6.
const FILES_ND: [&str; 2] = ["core/ipv6/nd6.c", "core/ipv6/icmp6.c"];

fn main() {
    println!("cargo::rerun-if-env-changed=LWIP_DIR");
    println!("cargo::rerun-if-changed=port");
    println!("cargo::rerun-if-changed=build.rs");

    let lwip = lwip_dir();
    println!("cargo::rerun-if-changed={}", lwip.display());
    cc::Build::new()
        .files(FILES.iter().chain(&FILES_ND).map(|file| lwip.join(file)))
        .file("port/shim.c")
        .include("port")
        .include(lwip.join("include"))
        .std("c11")
        .define("_GNU_SOURCE", None)
        .flag_if_supported("-fno-strict-aliasing")
        // Large-segment arithmetic that upstream's u16 types make look doubtful.
        .flag_if_supported("-Wno-type-limits")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-unused-variable")
        .warnings(true)
        // The data path runs through here even in development builds.
        .opt_level(2)
        .compile("lwip");
}

/// `$LWIP_DIR` when set (the folder that holds `core/` and `include/`),
/// otherwise the folder in the locked package.
fn lwip_dir() -> PathBuf {
    if let Some(dir) = env::var_os("LWIP_DIR") {
        let dir = PathBuf::from(dir);
        assert!(
            dir.join("include/lwip/tcp.h").is_file(),
            "LWIP_DIR is {}, but there is no include/lwip/tcp.h below it; \
             set it to the src folder of an lwIP tree",
            dir.display()
        );
        return dir;
    }
    let manifest =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("Cargo.toml");
    // Without the network first: that is all it takes once cargo has the package.
    let metadata = metadata(&manifest, &["--locked", "--offline"])
        .or_else(|_| metadata(&manifest, &["--locked"]))
        .unwrap_or_else(|e| panic!("cargo could not say where the package '{PACKAGE}' is: {e}"));
    let package = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == PACKAGE)
        .expect("Cargo.toml names the package that carries lwIP");
    let dir = package
        .manifest_path
        .parent()
        .expect("a manifest is in a folder");
    dir.join(SOURCES).into()
}

fn metadata(
    manifest: &Path,
    options: &[&str],
) -> Result<cargo_metadata::Metadata, cargo_metadata::Error> {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
        .exec()
}
