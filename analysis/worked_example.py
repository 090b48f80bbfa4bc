"""What can one ask of a record? A tour with xarray, pandas and fempi, whose cells an editor or Jupyter runs one by one.

python analysis/worked_example.py results/quickstart/dual.h5 -o worked_example.png
"""

# %% The record. In a notebook, write its path here: path = Path("results/quickstart/dual.h5").
import argparse
from pathlib import Path

import numpy as np
import xarray

import fempi
from fempi.errors import FempiError
from fempi.forensics import figures, geometry, replay, suspicion
from fempi.forensics.across import Vector, inner_products
from fempi.forensics.script import RESOLUTION

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("path", type=Path, help="a packed record")
parser.add_argument("-o", "--output", type=Path, help="the picture: .png or .pdf")
options = parser.parse_args()
path: Path = options.path

# %% With xarray: every dimension has its name, and nothing is read before it is used.
rounds = xarray.open_dataset(path, group="rounds", engine="h5netcdf")
print("dimensions:", ", ".join(f"{name} {size}" for name, size in rounds.sizes.items()))
print("trust:", rounds["trust"].dims, "-", rounds["trust"].attrs["description"])

# How much of the model did malicious clients make?
share = (rounds["weight"] * rounds["malicious"]).sum("slot")
print(f"malicious share of the aggregate: mean {float(share.mean()):.3f}, most in round {int(share.idxmax('round'))}")

# %% With pandas: a row for each update that was sent.
run = fempi.open(path)
sent = run.to_pandas()
sent["group"] = np.where(sent["attacking"], "attacking", "honest")

# Who was trusted least? Trust has no common scale, so its rank in the round is averaged.
least = sent.groupby("round")["trust"].rank().groupby(sent["client"]).mean().nsmallest(3).index
print("trusted least:", ", ".join(f"client {client}" for client in least))

# Does trust tell attackers from others? The share of pairs in which it does, mean over the rounds.
print(f"AUC of trust: {run.to_pandas('rounds')['trust_auc'].mean():.3f}")

# How long are the updates?
print(
    "median norm:", ", ".join(f"{group} {norm:.3g}" for group, norm in sent.groupby("group")["norm"].median().items())
)

# %% From the Gram matrix of a round: which update is nearest to which, and in which direction does it point?
last = geometry.round_at(run, run.rounds_completed)
cosines = last.cosines()
np.fill_diagonal(cosines, -np.inf)
i, j = np.unravel_index(np.nanargmax(cosines), cosines.shape)
print(f"most alike in round {last.number}: clients {last.clients[i]} and {last.clients[j]}, cosine {cosines[i, j]:.3f}")

# %% From the updates themselves: does a client go on in its direction? No Gram matrix reaches across rounds.
places = sent.reset_index().query("finite").groupby("client")
client = places.size().idxmax()
rows = [row for row in places.get_group(client).itertuples() if run.layout.keeps_vectors(row.round)]
vectors = [Vector(row.round, row.slot) for row in rows]
try:
    if not vectors:
        raise FempiError("the record keeps no updates of it")
    products = inner_products(run, vectors)
except FempiError as error:
    print(f"no cosines across rounds: {error}")
else:
    norms = np.sqrt(np.diagonal(products))
    between = (products / np.outer(norms, norms))[np.triu_indices(len(norms), 1)]
    rounded = f"{between.mean():.3f}" if len(between) else "unknown, it was there once"
    print(f"mean cosine of client {client} with itself over {len(norms)} rounds: {rounded}")

# %% Who did it? First without the truth, then with it.
suspects = [suspect.client for suspect in suspicion.examine(run).suspects()]
malicious = run.read("clients/malicious")
print(f"{len(suspects)} clients stand out, {malicious[suspects].sum()} of them malicious of {malicious.sum()}")

# %% What would another rule have let in?
for name in (None, "mean", "krum"):  # None: the run's own
    try:
        rule = replay.section_of(run, name)
        summary = replay.summarize(rule, replay.replay(run, rule))
    except FempiError as error:
        print(f"{name or 'the own rule'} cannot be replayed: {error}")
        continue
    weight, away = summary.malicious_weight, summary.error
    print(f"{summary.aggregator}: malicious weight {weight:.1%}, distance from honest mean {away:.3g}")

# %% A picture of whom the rule trusted, and when.
if options.output is not None:
    figures.trust_timeline(path, title=path.stem).savefig(options.output, dpi=RESOLUTION)
    print(f"picture in {options.output}")
