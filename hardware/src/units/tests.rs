//! Quantities as people write and read them.

use super::*;
use proptest::prelude::*;

#[test]
fn people_read_three_digits_and_a_unit() {
    assert_eq!(Bytes(80 << 30).to_string(), "80 GiB");
    assert_eq!(Bytes(0).to_string(), "0 B");
    assert_eq!(ByteRate(1.5e9).to_string(), "1.5 GB/s");
    assert_eq!(FlopRate(312e12).to_string(), "312 TFLOP/s");
    assert_eq!(Seconds(0.0032).to_string(), "3.2 ms");
    assert_eq!(Seconds(0.0).to_string(), "0 s");
    assert_eq!(Seconds(5400.0).to_string(), "1.5 h");
    assert_eq!(Nanos(1_234_567).to_string(), "1.23 ms");
    assert_eq!(Watts(400.0).to_string(), "400 W");
    assert_eq!(Dollars(1.234).to_string(), "$1.23");
    assert_eq!(Dollars(1_234_567.8).to_string(), "$1,234,568");
    assert_eq!(format!("{:>8}|", Watts(400.0)), "   400 W|");
}

#[test]
fn sizes_read_in_both_systems_and_links_in_bits() {
    assert_eq!("80 GB".parse(), Ok(Bytes(80_000_000_000)));
    assert_eq!("80GiB".parse(), Ok(Bytes(80 << 30)));
    assert_eq!("200 Gb/s".parse(), Ok(ByteRate(25e9)));
    assert_eq!("5 µs".parse::<Seconds>(), "5 us".parse());
    assert_eq!("$1,234.5".parse(), Ok(Dollars(1234.5)));
    assert_eq!("2 USD".parse(), Ok(Dollars(2.0)));
}

#[test]
fn tokens_and_money_read_as_people_write_them() {
    for text in ["300G", "300 G tokens", "300B", "0.3 T", "3e11 tokens"] {
        assert_eq!(text.parse(), Ok(Tokens(3e11)), "{text}");
    }
    assert_eq!(Tokens(1.5e13).to_string(), "15 T tokens");
    for text in ["$1.5M", "1.5MUSD", "1,500,000 USD", "$1500k", "$1500000"] {
        assert_eq!(text.parse(), Ok(Dollars(1.5e6)), "{text}");
    }
    let bare = "300".parse::<Tokens>().unwrap_err().to_string();
    assert!(bare.contains("`300` is not a count of tokens: no unit") && bare.contains("G tokens"), "{bare}");
    assert!("$1.5X".parse::<Dollars>().is_err() && "$".parse::<Dollars>().is_err());
}

#[test]
fn what_is_not_a_quantity_is_told_the_units() {
    let bare = "80".parse::<Bytes>().unwrap_err().to_string();
    assert!(bare.contains("`80` is not a size: no unit") && bare.contains("GiB"), "{bare}");
    let unknown = "80 Go".parse::<Bytes>().unwrap_err().to_string();
    assert!(unknown.contains("unknown unit"), "{unknown}");
    for text in ["", "GB", "-1 GB", "inf GB", "nan GB", "1..2 GB"] {
        assert!(text.parse::<Bytes>().is_err(), "{text}");
    }
    assert!("bf32".parse::<Precision>().unwrap_err().to_string().contains("bf16"));
}

#[test]
fn units_divide_to_times() {
    assert_eq!(Bytes(3_000) / ByteRate(1e3), Seconds(3.0));
    assert_eq!(Flops(1e12) / FlopRate(2e12), Seconds(0.5));
    assert_eq!(Seconds(1.6e-9).nanos(), Nanos(2));
}

proptest! {
    #[test]
    fn exact_text_reads_back(bits in any::<u64>(), size in 0u64..1 << 52, real in 1e-12f64..1e24) {
        prop_assert_eq!(Bytes(size).exact().parse(), Ok(Bytes(size)));
        prop_assert_eq!(Seconds(real).exact().parse(), Ok(Seconds(real)));
        prop_assert_eq!(ByteRate(real).exact().parse(), Ok(ByteRate(real)));
        prop_assert_eq!(Dollars(real).exact().parse(), Ok(Dollars(real)));
        prop_assert_eq!(Tokens(real).exact().parse(), Ok(Tokens(real)));
        prop_assert_eq!(Parameters(real).exact().parse(), Ok(Parameters(real)));
        let any = f64::from_bits(bits).abs();
        if any.is_normal() {
            prop_assert_eq!(Flops(any).exact().parse(), Ok(Flops(any)));
        }
    }

    #[test]
    fn printed_text_reads_back_to_three_digits(real in 1e-9f64..1e26) {
        let near = |read: f64| (read / real - 1.0).abs() < 5.1e-3;
        prop_assert!(near(Seconds(real).to_string().parse::<Seconds>().unwrap().0));
        prop_assert!(near(Flops(real).to_string().parse::<Flops>().unwrap().0));
    }
}
