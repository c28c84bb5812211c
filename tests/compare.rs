//! `compare` as its user runs it: scenarios from flags and from a file, in CSV, JSON and a table.

mod place;

use place::{Place, json};

const JOB: &str = include_str!("cases/small-job.toml");

fn place(name: &str) -> Place {
    Place::new(name, "job.toml", JOB)
}

/// A CSV file's header and records.
fn table(place: &Place, file: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_path(place.0.join(file)).unwrap();
    let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
    (header, reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect())
}

fn cell<'a>((header, rows): &'a (Vec<String>, Vec<Vec<String>>), row: usize, name: &str) -> &'a str {
    &rows[row][header.iter().position(|column| column == name).unwrap()]
}

#[test]
fn columns_are_those_that_scripts_know() {
    let output = place("compare-columns").run(&["compare", "--columns"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    let known: Vec<&str> = include_str!("goldens/compare-columns.txt").lines().collect();
    assert_eq!(names, known, "columns are stable: a new one goes to the end");
}

#[test]
fn two_clusters_are_laid_side_by_side() {
    let place = place("compare-flags");
    let run = |file: &str| {
        let (a, b) = ("1x dgx-a100-80gb", "1x dgx-h100");
        place.run(&["compare", "job.toml", "--cluster", a, "--cluster", b, "--price", "$2", "-o", file])
    };
    let output = run("a.csv");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("$ cheapest") && text.contains("> fastest") && text.contains(" %)"), "{text}");
    assert!(text.contains("stack "), "with which software: {text}");
    let rows = table(&place, "a.csv");
    assert_eq!(rows.1.len(), 2);
    for row in 0..2 {
        let number = |name: &str| cell(&rows, row, name).parse::<f64>().unwrap();
        assert!((number("device_hours") * 2.0 - number("usd")).abs() < 1e-9 * number("usd"), "all hours at the price");
        assert!(number("days") >= number("days_without_failures") && number("goodput") <= 1.0);
    }
    run("b.csv");
    let read = |file: &str| std::fs::read(place.0.join(file)).unwrap();
    assert_eq!(read("a.csv"), read("b.csv"), "the same again, byte for byte");
}

#[test]
fn what_fits_nowhere_and_what_has_no_price_are_rows() {
    let place = place("compare-rows");
    let scenarios = "[defaults]\njob = \"job.toml\"\n[[scenario]]\nname = \"=1+1\"\ncluster = \"1x dgx-h100\"\n\
                     pricing = \"aws on-demand\"\n[[scenario]]\nname = \"too large\"\njob = \"gpt3-175b\"\nseq = 2048\n\
                     global_batch = 64\nsteps = 10\ncluster = \"1x a100-40gb\"\n[[scenario]]\nname = \"no price\"\n\
                     cluster = \"1x dgx-a100-80gb\"\npricing = \"lambda 3y\"\n";
    place.write("scenarios.toml", scenarios);
    let rows = json(&place.run(&["compare", "scenarios.toml", "--json", "-o", "out.csv"]))["rows"].clone();
    let out = table(&place, "out.csv");
    assert_eq!(cell(&out, 0, "scenario"), "'=1+1", "no spreadsheet takes it for a formula");
    assert!(rows[0]["usd"].as_f64().unwrap() > 0.0 && rows[0]["price_date"].is_string(), "{rows}");
    assert_eq!(rows[1]["status"], "none");
    assert!(cell(&out, 1, "reason").contains("fits") && cell(&out, 1, "usd").is_empty(), "{rows}");
    assert!(rows[2]["status"] == "planned" && rows[2]["usd"].is_null(), "no price, no dollars: {rows}");
}

#[test]
fn what_was_planned_before_is_kept_and_the_same() {
    let place = place("compare-resume");
    let scenarios = |seq: &str| {
        format!(
            "[defaults]\njob = \"job.toml\"\ncluster = \"1x dgx-h100\"\n[sweep]\nseq = [{seq}]\nterm = [\"on-demand\", \"own\"]\n\
             [own]\nutilisation = 0.5\n"
        )
    };
    let compare = |seq: &str, more: &[&str]| {
        place.write("s.toml", &scenarios(seq));
        let output = place.run(&[&["compare", "s.toml", "-o", "out.csv"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (std::fs::read_to_string(place.0.join("out.csv")).unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (whole, shown) = compare("128, 256", &[]);
    let (part, _) = compare("128", &[]);
    assert!(whole.starts_with(&part) && part.lines().count() == 3, "{part}");
    // A row that is planned again would not say this.
    place.write("out.csv", &part.replacen(",planned,", ",planned,kept", 1));
    let (resumed, again) = compare("128, 256", &["--resume"]);
    assert!(resumed.contains("planned,kept"));
    assert_eq!((resumed.replace("planned,kept", "planned,"), again), (whole, shown));
    let rows = table(&place, "out.csv");
    let number = |name: &str| cell(&rows, 1, name).parse::<f64>().unwrap();
    let parts = ["hardware", "interest", "electricity", "space", "staff", "maintenance"];
    let sum: f64 = parts.iter().map(|part| number(&format!("usd_{part}"))).sum();
    assert!((sum / number("usd") - 1.0).abs() < 1e-9 && number("utilisation") == 0.5, "an owner's parts are all of it");
    place.write("out.csv", "a,b\n1,2\n");
    place.refused(&["compare", "s.toml", "-o", "out.csv", "--resume"], 2, &["out.csv", "columns"]);
}

#[test]
fn a_page_stands_alone_and_charges_sum_to_the_cost() {
    let place = place("compare-page");
    let scenarios = "[defaults]\njob = \"job.toml\"\ncluster = \"1x dgx-h100\"\n[[scenario]]\nname = \"<script>alert(1)</script>\"\n\
                     pricing = \"own\"\n[[scenario]]\nname = \"rent\"\npricing = \"aws on-demand\"\n[[scenario]]\nname = \"large\"\n\
                     job = \"gpt3-175b\"\nseq = 2048\nglobal_batch = 64\nsteps = 10\ncluster = \"1x a100-40gb\"\n";
    place.write("s.toml", scenarios);
    let more = ["--html", "page.html", "--line-items", "items.csv", "-o", "out.csv"];
    let output = place.run(&[&["compare", "s.toml"], &more[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(place.0.join("page.html")).unwrap();
    for outside in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for says in
        ["&lt;script&gt;", "<svg", "Cheapest:", "utilisation", "Thinkmate", "Scenarios without a plan", "pricing_aws"]
    {
        assert!(page.contains(says), "{says} in {page}");
    }
    let (rows, items) = (table(&place, "out.csv"), table(&place, "items.csv"));
    let names: Vec<&str> = include_str!("goldens/line-items.txt").lines().collect();
    assert_eq!(items.0, names, "columns of FOCUS 1.2");
    for (row, scenario) in [(0, "script"), (1, "rent")] {
        let of = |at: &usize| cell(&items, *at, "Tags").contains(scenario);
        let charged = (0..items.1.len()).filter(of).map(|at| cell(&items, at, "EffectiveCost").parse::<f64>().unwrap());
        let usd: f64 = cell(&rows, row, "usd").parse().unwrap();
        assert!((charged.sum::<f64>() / usd - 1.0).abs() < 1e-9, "{scenario}");
    }
    let rent = (0..items.1.len()).find(|at| cell(&items, *at, "Tags").contains("rent")).unwrap();
    assert_eq!(cell(&items, rent, "ProviderName"), "Amazon Web Services");
    assert_eq!((cell(&items, rent, "PricingCategory"), cell(&items, rent, "BillingCurrency")), ("Standard", "USD"));
}

#[test]
fn the_buyers_example_is_read_and_expands() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/buy-or-rent.toml");
    let file = path.to_str().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let asked = meshwright::scenario::read_scenarios(file, &text).unwrap();
    let mut clusters: Vec<&str> = asked.scenarios.iter().map(|scenario| scenario.cluster.as_str()).collect();
    clusters.dedup();
    assert_eq!((asked.scenarios.len(), clusters.len()), (24, 6));
    for scenario in &asked.scenarios {
        let cluster = meshwright_hardware::profile::Cluster::parse(&scenario.cluster).unwrap();
        assert!((2000..2300).contains(&cluster.devices()), "{}: about as many of each", scenario.cluster);
    }
    let book = meshwright::prices::PriceBook::shipped().unwrap();
    book.owning_over(file, asked.own).unwrap();
}

#[test]
fn a_cost_above_the_most_ends_a_pipeline_with_its_table_written() {
    let place = place("compare-max-cost");
    let run = |most: &str| {
        place.run(&[
            "compare",
            "job.toml",
            "--cluster",
            "1x dgx-h100",
            "--price",
            "$2",
            "--max-cost",
            most,
            "-o",
            "out.csv",
        ])
    };
    assert_eq!(run("$900M").status.code(), Some(0));
    std::fs::remove_file(place.0.join("out.csv")).unwrap();
    let output = run("$0.01");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && message.contains("--max-cost"), "{message}");
    assert_eq!(table(&place, "out.csv").1.len(), 1);
}

#[test]
fn a_users_prices_count_and_doubtful_ones_are_marked() {
    let place = place("compare-prices");
    let rent = "[[rent]]\ndevice = \"h100\"\ncloud = \"Ours\"\nterm = \"1y\"\nusd_per_device_hour = 1.5\ndate = \"2020-01-01\"\n";
    place.write("prices.toml", rent);
    let of = |pricing: &str, more: &[&str]| {
        let all = ["compare", "job.toml", "--cluster", "1x dgx-h100", "--prices", "prices.toml", "--pricing", pricing];
        json(&place.run(&[&all, more, &["--json"]].concat()))["rows"][0].clone()
    };
    let ours = of("Ours 1y", &["--objective", "cost"]);
    assert!(
        ours["usd_per_device_hour"] == 1.5 && ours["price_kind"] == "given" && ours["price_doubt"].is_null(),
        "{ours}"
    );
    assert_eq!(of("Ours 1y", &["--max-age", "180d"])["price_doubt"], "old");
    let own = ["compare", "job.toml", "--cluster", "1x dgx-h100", "--pricing", "own", "--objective", "cost"];
    let refused = place.run(&own);
    assert!(refused.status.code() == Some(3) && String::from_utf8_lossy(&refused.stdout).contains("would be decided"));
    let taken = place.run(&[&own[..], &["--any-price"]].concat());
    let text = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(taken.status.success() && text.contains("* at a price that is assumed; it decides"), "{text}");
    let plan = ["plan", "job.toml", "--cluster", "1x gh200-4", "--objective", "cost"];
    place.refused(&plan, 2, &["assumed", "--any-price", "Lambda"]);
    for more in [&["--any-price"][..], &["--price", "$2"]] {
        assert!(place.run(&[&plan[..], more].concat()).status.success(), "{more:?}");
    }
    place.write("old.toml", &rent.replace("1.5", "0.0"));
    place.refused(&["prices", "check", "old.toml"], 2, &["old.toml", "above zero"]);
    let checked = place.run(&["prices", "check", "prices.toml", "--max-age", "180d"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("1 rents") && said.contains("old, of 2020-01-01"), "{said}");
}

#[test]
fn what_owning_takes_is_shown_by_part() {
    let place = place("prices-own");
    let own = json(&place.run(&["prices", "show", "h100", "--own", "--json"]));
    let parts: f64 = own["parts"].as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum();
    assert!((parts / own["usd_per_device_hour"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{own}");
    let text = String::from_utf8(place.run(&["prices", "show", "h100", "--own"]).stdout).unwrap();
    for says in ["servers", "electricity", "interest_rate", "CoreWeave", "assumed"] {
        assert!(text.contains(says), "{says} in {text}");
    }
    place.refused(&["prices", "show", "tpu-v5p", "--own"], 2, &["tpu-v5p-pod", "[[server]]"]);
}

#[test]
fn a_mistake_is_refused_by_name_before_anything_is_planned() {
    let place = place("compare-refused");
    place.write("key.toml", "[[scenario]]\njob = \"job.toml\"\ncluster = \"1x dgx-h100\"\ndevise = 1\n");
    place.refused(&["compare", "key.toml"], 2, &["key.toml", "devise"]);
    place.write("cloud.toml", "[[scenario]]\njob = \"job.toml\"\ncluster = \"1x dgx-h100\"\npricing = \"awz 1y\"\n");
    place.refused(&["compare", "cloud.toml"], 2, &["awz", "Amazon Web Services"]);
    place.refused(&["compare", "job.toml", "--cluster", "1x no-such"], 2, &["scenario `1x no-such`"]);
}

#[test]
fn prices_are_shown_with_date_and_source() {
    let place = place("prices");
    let all = json(&place.run(&["prices", "list", "--json"]));
    let of = json(&place.run(&["prices", "show", "h100", "--json"]));
    let (all, of) = (all["prices"].as_array().unwrap(), of["prices"].as_array().unwrap());
    assert_eq!(all.iter().filter(|rent| rent["device"] == "h100").count(), of.len());
    let text = String::from_utf8(place.run(&["prices", "show", "h100"]).stdout).unwrap();
    for rent in of {
        let says = |key: &str| text.contains(rent[key].as_str().unwrap());
        assert!(says("date") && says("source") && says("kind") && says("cloud"), "{rent} in {text}");
    }
    place.refused(&["prices", "show", "h1000"], 2, &["h1000", "h100"]);
}
