#!/bin/sh
# The launch credentials of the playground, as the sample databases know them.
set -eu
bao kv put -mount=secret shop-postgres username=shop_app password=playground-postgres
bao kv put -mount=secret shop-mysql username=shop_app password=playground-mysql
bao kv put -mount=secret shop-sqlserver username=shop_app password=Playground-sqlserver-1
