//! The comparison for scripts: JSON, and CSV of figures and of instructions.
//!
//! In: a [`Report`]. Out: numbers in base units, as they are.

use std::io;

use meshwright_planner::predict::{FIGURES, Figures};
use serde_json::{Value, json};

use super::{Report, error_pct};

impl Report {
    /// The comparison for scripts.
    pub fn json(&self) -> Value {
        let figures = |of: &Figures| -> Value {
            FIGURES.iter().map(|figure| (figure.key.to_owned(), figure.unit.json((figure.get)(of)))).collect()
        };
        let [predicted, replayed, measured] = &self.figures;
        let errors = |of: &Figures| -> Value {
            let relative = FIGURES.iter().filter(|figure| figure.relative);
            relative.map(|f| (f.key.to_owned(), json!(error_pct((f.get)(of), (f.get)(measured))))).collect()
        };
        let groups = self.groups.iter().map(|g| {
            let [predicted, replayed, measured] = g.nanos.map(|nanos| nanos / 1e9);
            json!({ "name": g.name, "count": g.count, "predicted_s": predicted, "replayed_s": replayed,
                "measured_s": measured, "error_pct": error_pct(predicted, measured) })
        });
        json!({
            "title": self.title,
            "predicted": figures(predicted),
            "replayed": figures(replayed),
            "measured": figures(measured),
            "error_pct": errors(predicted),
            "replay_error_pct": errors(replayed),
            "steps": self.spread.map(|spread| spread.json()),
            "instructions": groups.collect::<Vec<_>>(),
            "final_loss": self.losses.last().map(|(_, loss)| loss),
            "unigram_entropy": self.unigram_entropy,
        })
    }

    /// One line a figure; that of step time with the 95 % confidence interval of the run's median.
    ///
    /// # Errors
    /// The writer's.
    pub fn figures_csv(&self, to: impl io::Write) -> csv::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record(["figure", "predicted", "replayed", "measured", "error_pct", "ci95_low", "ci95_high"])?;
        for figure in FIGURES {
            let (values, error) = self.compared(figure);
            let [predicted, replayed, measured] = values.map(|value| figure.unit.json(value).to_string());
            let error = error.map_or_else(String::new, |error| format!("{error:.2}"));
            let interval = self.spread.and_then(|spread| spread.confidence_s).filter(|_| figure.key == "step_time_s");
            let [low, high] = interval.map_or_else(Default::default, |ends| ends.map(|end| end.to_string()));
            writer.write_record([figure.key, &predicted, &replayed, &measured, &error, &low, &high])?;
        }
        writer.flush()?;
        Ok(())
    }

    /// One line an instruction.
    ///
    /// # Errors
    /// The writer's.
    pub fn csv(&self, to: impl io::Write) -> csv::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record([
            "stage",
            "instruction",
            "name",
            "phase",
            "microbatch",
            "layer",
            "predicted_start_us",
            "predicted_us",
            "replayed_us",
            "measured_us",
            "error_pct",
        ])?;
        let or_none = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        for row in &self.rows {
            let micros = |nanos: f64| format!("{:.3}", nanos / 1e3);
            let [predicted, replayed, measured] = row.nanos;
            writer.write_record([
                row.role.to_string(),
                row.index.to_string(),
                row.name.clone(),
                row.phase.to_owned(),
                or_none(row.microbatch),
                or_none(row.layer),
                micros(row.predicted_start),
                micros(predicted),
                micros(replayed),
                micros(measured),
                format!("{:.2}", error_pct(predicted, measured)),
            ])?;
        }
        writer.flush()?;
        Ok(())
    }
}
