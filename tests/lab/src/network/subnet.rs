//! IPv4 subnets: reading, overlap, and the choice of one that nothing on the machine uses.

use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

/// An address range like `10.213.1.0/30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    address: Ipv4Addr,
    bits: u32,
}

impl Subnet {
    pub(super) fn new(address: Ipv4Addr, bits: u32) -> Self {
        assert!(bits <= 32, "an IPv4 prefix has at most 32 bits");
        Self { address, bits }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let bits = self.bits.min(other.bits);
        // A shift by 32 is not a shift; no bits in common means everything overlaps.
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Reads `ip route`'s forms: with a prefix, or a single address.
    fn from_str(text: &str) -> Result<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse().context("a prefix length")?),
            None => (text, 32),
        };
        ensure!(bits <= 32, "{text}: more than 32 bits");
        Ok(Self::new(
            address.parse().with_context(|| text.to_owned())?,
            bits,
        ))
    }
}

/// The subnets in the answers of `ip -j -4 address` and `ip -j -4 route`, without the default route.
pub(super) fn in_use(addresses: &str, routes: &str) -> Result<Vec<Subnet>> {
    let addresses: serde_json::Value = serde_json::from_str(addresses).context("ip address")?;
    let routes: serde_json::Value = serde_json::from_str(routes).context("ip route")?;
    let mut subnets = Vec::new();
    for info in addresses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link["addr_info"].as_array())
        .flatten()
    {
        if let (Some(local), Some(bits)) = (info["local"].as_str(), info["prefixlen"].as_u64()) {
            subnets.push(format!("{local}/{bits}").parse()?);
        }
    }
    for destination in routes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|route| route["dst"].as_str())
    {
        if destination != "default" {
            subnets.push(destination.parse()?);
        }
    }
    Ok(subnets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn overlap_is_symmetric_and_knows_containment() {
        for (a, b, expected) in [
            ("10.213.1.0/30", "10.213.1.4/30", false),
            ("10.213.1.0/30", "10.213.1.3", true),
            ("10.213.1.0/30", "10.0.0.0/8", true),
            ("10.213.1.0/30", "192.168.0.0/16", false),
            ("0.0.0.0/0", "10.213.1.1", true),
        ] {
            assert_eq!(subnet(a).overlaps(&subnet(b)), expected, "{a} {b}");
            assert_eq!(subnet(b).overlaps(&subnet(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn addresses_and_routes_count_and_the_default_route_does_not() {
        let addresses =
            r#"[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},{"ifname":"x"}]"#;
        let routes = r#"[{"dst":"default","gateway":"10.1.0.1"},{"dst":"10.213.0.0/16"},{"dst":"10.9.9.9"}]"#;
        let found = in_use(addresses, routes).expect("ip's form");
        assert_eq!(
            found,
            [
                subnet("127.0.0.1/8"),
                subnet("10.213.0.0/16"),
                subnet("10.9.9.9/32")
            ]
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!("10.0.0.0/33".parse::<Subnet>().is_err());
        assert!("ten".parse::<Subnet>().is_err());
    }
}
