"""A Wasserstein autoencoder, WAE-MMD: Tolstikhin et al. (2018), algorithm 2.

It is `autoencoder.py` with another objective, which makes the aggregate of all codes match p(z) = N(0, I), so that
decoded draws from p(z) look like the data. With σ² = ½ the distortion is the squared distance plus 36.63.

    python scripts/train.py --config=configs/wae.py --workdir=runs/wae

Expected: test distortion 37.6 nats, hence a squared distance of 0.96 per image; 40 seconds on two cores.
scripts/evaluate.py finds a squared MMD of -0.002 ± 0.001; for autoencoder.py it finds 0.045 ± 0.002.
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
        objective=jv.MMD(weight=1000.0),
        optimizer=jv.Adam(learning_rate=1e-3, schedule=jv.Cosine()),
        num_epochs=300,
        batch_size=128,
        eval_every_epochs=5,
        checkpoint_every_epochs=50,
    )
