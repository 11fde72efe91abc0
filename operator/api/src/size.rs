//! Sizes in the spec: from a Kubernetes quantity to bytes.
//!
//! Lives here: the conversion. Does not live here: the bounds (CEL in the CRD, `drqm_core::validate`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Bytes of a quantity; `None` if it is malformed, negative, not whole or beyond 64 bits.
#[must_use]
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let (numerator, denominator) = scale(suffix)?;
    // number = (whole.fraction) * numerator / denominator, and all of it must be whole.
    let places = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = mantissa.checked_mul(numerator)?;
    let divisor = places.checked_mul(denominator)?;
    if product % divisor != 0 {
        return None;
    }
    u64::try_from(product / divisor).ok()
}

fn scale(suffix: &str) -> Option<(u128, u128)> {
    let power = |base: u128, exponent: u32| base.checked_pow(exponent).map(|scale| (scale, 1));
    match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let exponent: u32 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
            power(10, exponent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_form() {
        let cases = [
            ("3Gi", Some(3 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("300Mi", Some(300 << 20)),
            ("4096", Some(4096)),
            ("4k", Some(4000)),
            ("1e6", Some(1_000_000)),
            ("4096000m", Some(4096)),
            ("0", Some(0)),
            (".5Ki", Some(512)),
            ("1m", None),
            ("-1", None),
            ("", None),
            (".", None),
            ("3GiB", None),
            ("1.2.3", None),
            ("16Ei", None),
            ("99999999999999999999999999999999999999999999", None),
            ("1e400", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
