#!/bin/bash
# Many concepts on TPU machines of one host each (such as v5litepod-8), one share for each machine:
#   PROJECT=… ZONE=us-west4-a SHARES=8 BUCKET=gs://my-bucket examples/cluster/tpu_queued_resources.sh
# Machines come when there is room for them. Every one trains its share when it starts. If one is taken away, delete its
# queued resource and run this again: machines that exist are left as they are, and what was begun is continued.
set -eu
: "${PROJECT:?}" "${ZONE:?}" "${BUCKET:?}"
SHARES=${SHARES:-8}
TYPE=${TYPE:-v5litepod-8}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
# concepts.yaml and the package (python -m build --wheel) must be in the bucket.
FLAGS=${FLAGS:---model $BUCKET/sd15 --config sd15 --basis $BUCKET/basis.safetensors --tpu}

for ((index = 0; index < SHARES; index++)); do
  name="concepts-$index"
  gcloud compute tpus queued-resources describe "$name" --project "$PROJECT" --zone "$ZONE" >/dev/null 2>&1 && continue
  start=$(mktemp)
  cat >"$start" <<SCRIPT
#!/bin/bash
cd /root
gcloud storage cp "$BUCKET/concepts.yaml" "$BUCKET/*.whl" .
pip install "\$(ls blocklora_jax-*.whl)[tpu,gs]"
python3 -m train.concepts --concepts concepts.yaml --out "$BUCKET/run" $FLAGS --shard "$index/$SHARES" --wait
SCRIPT
  gcloud compute tpus queued-resources create "$name" --node-id "$name" --project "$PROJECT" --zone "$ZONE" \
    --accelerator-type "$TYPE" --runtime-version "$VERSION" --spot --metadata-from-file "startup-script=$start"
  rm "$start"
done
