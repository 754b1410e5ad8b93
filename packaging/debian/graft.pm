# debhelper sequence of packages of graft plugins: Build-Depends: dh-sequence-graft
use strict;
use warnings;
use Debian::Debhelper::Dh_Lib;

insert_after('dh_shlibdeps', 'dh_graft');
1;
