# graft.m4: for plugins that are built with autoconf.                               serial 1
#
# GRAFT_PLUGIN([MINIMUM-VERSION], [ACTION-IF-FOUND], [ACTION-IF-NOT-FOUND])
# -------------------------------------------------------------------------
# Finds graft's SDK and sets, for Makefile.am:
#
#   GRAFT_CFLAGS    to compile a plugin:    $(CC) $(GRAFT_CFLAGS) ...
#   GRAFT_CXXFLAGS  the same for C++, with -fno-gnu-unique where the compiler knows it (g++)
#   GRAFT_LIBS      to link it to NAME.so:  $(CC) -o NAME.so ... $(GRAFT_LIBS)
#   GRAFT_PLUGINDIR where graftd looks for plugins
#
#     AC_PROG_CC
#     GRAFT_PLUGIN([0.1])
AC_DEFUN([GRAFT_PLUGIN], [
AC_REQUIRE([AC_PROG_CC])dnl
PKG_CHECK_MODULES([GRAFT], [graft m4_ifval([$1], [>= $1])], [
    GRAFT_CXXFLAGS=$GRAFT_CFLAGS
    AC_PROVIDE_IFELSE([AC_PROG_CXX], [_GRAFT_CXX])
    AC_ARG_VAR([GRAFT_PLUGINDIR], [where graftd looks for plugins, overriding pkg-config])
    AS_IF([test -z "$GRAFT_PLUGINDIR"], [GRAFT_PLUGINDIR=`$PKG_CONFIG --variable=plugindir graft`])
    AC_SUBST([GRAFT_CXXFLAGS])
    $2
], m4_ifval([$3], [[$3]], [[
    AC_MSG_ERROR([graft's SDK is missing: install graft, or point PKG_CONFIG_PATH at the folder of its graft.pc])
]]))
])

# A C++ plugin with inline or template statics carries symbols that must be unique in the process,
# and graftd refuses it: two versions of it would share them. This flag makes none.
AC_DEFUN([_GRAFT_CXX], [
AC_LANG_PUSH([C++])
graft_saved_CXXFLAGS=$CXXFLAGS
graft_flag=`$PKG_CONFIG --variable=gxxflags graft`
CXXFLAGS="$CXXFLAGS $graft_flag"
AC_MSG_CHECKING([whether $CXX takes $graft_flag])
AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
    [AC_MSG_RESULT([yes]); GRAFT_CXXFLAGS="$GRAFT_CXXFLAGS $graft_flag"], [AC_MSG_RESULT([no])])
CXXFLAGS=$graft_saved_CXXFLAGS
AC_LANG_POP([C++])
])
