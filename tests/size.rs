//! `size`: what scaling laws say of a model, its data and its cost, as a user asks it.

mod place;

use place::{Place, json};

#[test]
fn one_of_five_is_asked_and_the_others_are_told() {
    let place = Place::new("size", "none", "");
    let ask = |more: &[&str]| json(&place.run(&[&["size", "--json"], more].concat()));
    let by_flops = ask(&["--flops", "5.76e23", "--law", "hoffmann"]);
    // Hoffmann et al. 2022, section 3.4: by approach 3 about 40 B.
    let parameters = by_flops["parameters"].as_f64().unwrap();
    assert!((parameters / 40e9 - 1.0).abs() < 0.05 && by_flops["extrapolated"] == true, "{by_flops}");
    let by_loss = ask(&["--loss", &by_flops["loss"].to_string(), "--law", "hoffmann"]);
    assert!((by_loss["flops"].as_f64().unwrap() / 5.76e23 - 1.0).abs() < 1e-3, "{by_loss}");
    let usual = ask(&["--params", "8B", "--inference", "10T"]);
    let [low, high] = [0, 1].map(|end| usual["tokens_low_high"][end].as_f64().unwrap());
    assert!((low..high).contains(&usual["tokens"].as_f64().unwrap()), "{usual}");
    assert!(usual["served"]["parameters"].as_f64().unwrap() < 8e9 && usual["others"].as_array().unwrap().len() > 6);
    place.refused(&["size"], 2, &["--budget"]);
    place.refused(&["size", "--loss", "1.5"], 2, &["--loss is 1.5"]);
    place.refused(&["size", "--flops", "nan"], 2, &["--flops is NaN"]);
    place.refused(&["size", "--params", "8B", "--law", "moore"], 2, &["besiroglu, hoffmann"]);
    place.refused(&["size", "--budget", "$5M"], 2, &["--cluster"]);
}

#[test]
fn a_budget_buys_as_much_as_it_pays_for_and_its_model_is_a_file() {
    let place = Place::new("size-budget", "none", "");
    let on = ["--cluster", "2x dgx-h100", "--price", "$2", "-o", "decoder.toml", "--json"];
    let sized = json(&place.run(&[&["size", "--budget", "$20k"], &on[..]].concat()));
    let dollars = sized["usd"].as_f64().unwrap();
    assert!((0.9..=1.0).contains(&(dollars / 20e3)), "{sized}");
    let models = json(&place.run(&["models", "decoder.toml", "--json"]));
    assert!(models.to_string().contains("decoder"), "{models}");
}
