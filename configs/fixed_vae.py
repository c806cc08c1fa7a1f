"""Fixed-binarization MNIST: the plain VAE with which `vampprior.py` and `flow_posterior.py` are compared.

Networks as in Burda et al. (2016), section 5: 784 – tanh 200 – tanh 200 – 50 latents, and the mirror image.

    python scripts/train.py --config=configs/fixed_vae.py --config.data.data_dir=DIR --workdir=runs/fixed
    python scripts/evaluate.py --workdir=runs/fixed --num-importance-samples=5000

Expected: test ELBO -93.2 nats, log p(x) at least -88.2 (5,000 draws); 4 to 5 minutes on two busy cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="binarized_mnist", preprocess=jv.Scaling()),
        model=jv.VAE(
            latent_dim=50,
            encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
        ),
        objective=jv.ELBO(),
        optimizer=jv.Muon(learning_rate=0.03, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=150,
        batch_size=1000,
        kl_warmup_epochs=20,
        eval_every_epochs=5,
    )
