"""MNIST, binarized anew every time an image is seen, with dense networks: after Kingma and Welling (2014), section 5.

784 – relu 400 – 20 latents and the mirror image. The comparison in docs/lecture.md trains it beside an autoencoder.

    python scripts/train.py --config=configs/mnist.py --config.data.data_dir=DIR --workdir=runs/mnist

Expected: test ELBO -97.9 nats, log p(x) at least -93.6; 1.2 to 1.7 minutes on two cores.
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
        objective=jv.ELBO(),
        optimizer=jv.Adam(learning_rate=2e-3, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=30,
        batch_size=128,
        eval_every_epochs=2,
        checkpoint_every_epochs=5,
    )
