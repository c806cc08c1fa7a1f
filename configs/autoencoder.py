"""The lecture's plain autoencoder: one point for each x, and the squared distance between x and its reconstruction.

It is the VAE with two other choices: `Delta` for q(z|x), and a `Gaussian` p(x|z) of fixed variance. With σ² = ½ the
distortion is the squared distance itself plus the constant D/2 · log π = 36.63.

    python scripts/train.py --config=configs/autoencoder.py --workdir=runs/autoencoder

Expected: test distortion 37.4 nats, hence a squared distance of 0.75 per image; 25 seconds on two cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="digits", preprocess=jv.Scaling()),
        model=jv.VAE(
            latent_dim=8,
            encoder=jv.MLP(hidden=(256, 256), activation="relu"),
            posterior=jv.Delta(),
            prior=jv.StandardNormal(),
            decoder=jv.MLP(hidden=(256, 256), activation="relu"),
            likelihood=jv.Gaussian(variance=jv.Fixed(value=0.5)),
        ),
        objective=jv.ELBO(),
        optimizer=jv.Adam(learning_rate=1e-3, schedule=jv.Cosine()),
        num_epochs=300,
        batch_size=128,
        eval_every_epochs=5,
        checkpoint_every_epochs=50,
    )
