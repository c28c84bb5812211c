//! Gradients of models whose plans agree with each other, by finite differences: a wrong tape would be wrong under every plan.

use std::collections::BTreeMap;

use super::*;

/// Loss and gradients of a first step that begins with these parameters, or with the model's own.
fn step(plan: &Plan, start: Option<&BTreeMap<String, Vec<f32>>>) -> (f64, [BTreeMap<String, Vec<f32>>; 2]) {
    let lowered = lower(plan).unwrap();
    let config = train_config(plan, 1, None);
    let mut trainer = Trainer::new(Arc::new(lowered.program), lowered.params, config, Arc::new(answered)).unwrap();
    start.into_iter().for_each(|start| trainer.set_params(start).unwrap());
    let params = trainer.gather_params().unwrap();
    let loss = trainer.step().unwrap().loss;
    (loss, [params, trainer.gather_grads().unwrap()])
}

/// Each parameter's largest gradient is the slope of the loss.
fn are_finite_differences(plan: &Plan) {
    let (_, [start, grads]) = step(plan, None);
    for (name, grad) in grads {
        let at = (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs())).unwrap();
        let moved = |by: f32| {
            let mut params = start.clone();
            params.get_mut(&name).unwrap()[at] += by;
            step(plan, Some(&params)).0
        };
        // Central differences of two widths, extrapolated (Richardson 1911): the error falls with the fourth power.
        let difference = |h: f32| (moved(h) - moved(-h)) / (2.0 * f64::from(h));
        let (slope, wanted) = ((4.0 * difference(1e-2) - difference(2e-2)) / 3.0, f64::from(grad[at]));
        assert!((slope - wanted).abs() < 0.02 * wanted.abs() + 2e-4, "{name}[{at}]: {wanted}, slope {slope}");
    }
}

/// An encoder's layers learn from what its decoder makes of them, through the norm behind the last of them.
#[test]
fn gradients_of_encoder_decoders_are_finite_differences() {
    let family = Family { decoder_layers: Some(2), ..Family::default() };
    let model = Model { layers: 2, family: Some(family), ..model(Architecture::Gpt2) };
    are_finite_differences(&plan(&model, mesh(1, 1, 1), 1, 8, (0, 0)));
    are_finite_differences(&Plan { schedule: Schedule::ZeroBubble, ..plan(&model, mesh(1, 4, 1), 1, 8, (1, 0)) });
}
