"""A β-TCVAE: Chen et al. (2018), equation 4, with β = 6 on the total correlation of the latents.

It is `mnist.py` with another objective. `evaluate` prints the total correlation, and the ELBO, which this objective
does not maximise.

    python scripts/train.py --config=configs/beta_tc.py --config.data.data_dir=DIR --workdir=runs/beta_tc
    python scripts/evaluate.py --workdir=runs/beta_tc

Expected: test ELBO -116.7 nats, total correlation 1.4; about 4 minutes on two busy cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="mnist", preprocess=jv.DynamicBinarization(), num_validation=10_000),
        model=jv.VAE(
            latent_dim=20,
            encoder=jv.MLP(hidden=(400,), activation="relu"),
            posterior=jv.DiagonalGaussian(),
            prior=jv.StandardNormal(),
            decoder=jv.MLP(hidden=(400,), activation="relu"),
            likelihood=jv.Bernoulli(),
        ),
        objective=jv.BetaTC(beta=6.0),
        optimizer=jv.Adam(learning_rate=2e-3, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=30,
        batch_size=128,
        eval_every_epochs=2,
        checkpoint_every_epochs=5,
    )
